"""One evaluation by several processes, as torchrun starts them: who am I, and the few words that ranks exchange.

Ranks share a file system and no pixels: each writes its own parts, and only settings, clocks and lists of skipped
images go between them, over gloo (NCCL would need a GPU for each word).
"""

import datetime
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed

from panbench.base.errors import BadArgument

# A rank may wait as long as the slowest one evaluates.
_PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started: its number, how many there are, its number on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> str:
        """The `--device` of this rank: each takes a GPU of its own when several run on a machine."""
        if self.size > 1 and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
            return f"cuda:{self.local % max(1, torch.cuda.device_count())}"
        return name

    def told(self, word: Any) -> Any:
        """What the first rank says, at every rank. All ranks must call it."""
        if self.size == 1:
            return word
        words = [word]
        distributed.broadcast_object_list(words, src=0)
        return words[0]

    def heard(self, word: Any) -> list[Any]:
        """What each rank says, in order of rank, at every rank. All ranks must call it."""
        if self.size == 1:
            return [word]
        words: list[Any] = [None] * self.size
        distributed.all_gather_object(words, word)
        return words


def join_ranks() -> Ranks:
    """The ranks of this job, met by torchrun's rendezvous; a single one outside of torchrun. Raises BadArgument."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        return Ranks()
    if not distributed.is_available():
        raise BadArgument("This PyTorch has no torch.distributed; start panbench without torchrun.")
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    return Ranks(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
