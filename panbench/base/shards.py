"""Parses shards: the share of an evaluation or a scoring that one process computes, `--shard 3/8`."""

import os
from typing import NamedTuple

from panbench.base.errors import BadArgument


class Shard(NamedTuple):
    """One shard: its number, counted from 1, and the total number of shards."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_shard(text: str) -> Shard:
    """Parses `3/8`. Raises BadArgument for anything else and for numbers out of range."""
    number, slash, count = text.partition("/")
    if not (slash and number.isascii() and number.isdecimal() and count.isascii() and count.isdecimal()):
        raise BadArgument(f"--shard is {text!r}; give the number of the shard and of all shards, as in 3/16.")
    shard = Shard(int(number), int(count))
    if not 1 <= shard.number <= shard.of:
        slurm = f" For Slurm: `sbatch --array=1-{shard.of}`." if shard.number == 0 else ""
        raise BadArgument(f"There is no shard {shard}. Shards are numbered from 1 to {shard.of}.{slurm}")
    return shard


def refuse_ranks(command: str) -> None:
    """Raises BadArgument under torchrun or a similar launcher, where each process would do all of the work."""
    ranks = os.environ.get("WORLD_SIZE", "")
    if not (ranks.isdecimal() and int(ranks) > 1):
        return
    shared = (
        f"Give each process a share, `panbench {command} … --shard I/{ranks} --out results/NAME.I` with I from 1 to "
        f"{ranks}, and join them: `panbench runs merge results/NAME.* --out results/NAME`."
    )
    gpus = f" On one machine: `panbench eval … --gpus {ranks}`, without torchrun." if command == "eval" else ""
    raise BadArgument(f"WORLD_SIZE is {ranks}, and each of these processes would {command} all images. {shared}{gpus}")
