"""One evaluation by several processes, as torchrun starts them: which rank this is, and what the ranks exchange.

Ranks share a file system and no pixels: each writes its own parts, and only settings, times and lists of skipped
images are exchanged, over gloo (NCCL would need a GPU for each message).
"""

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as distributed

from panbench.base.errors import BadArgument

Result = TypeVar("Result")

# A rank waits for as long as the slowest one evaluates.
_TIMEOUT = datetime.timedelta(days=7)


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

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank. All ranks must call it; the others' argument is ignored."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order of rank, on every rank. All ranks must call it."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def first_alone(self, action: Callable[[], Result]) -> Result:
        """What `action` returns, called by rank 0 before the others: it may download, the others find the files."""
        if not self.is_first:
            self.broadcast(None)
            return action()
        result = action()
        self.broadcast("The files are on disk.")
        return result


def join_ranks() -> Ranks:
    """This process among the ranks of a torchrun job; a single rank outside of torchrun. Raises BadArgument."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        return Ranks()
    if not distributed.is_available():
        raise BadArgument("This PyTorch has no torch.distributed; start panbench without torchrun.")
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=_TIMEOUT)
    return Ranks(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
