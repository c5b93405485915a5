"""The scoring of a folder of predictions, as each of its shards gets it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panbench.base.reporter import Reporter
from panbench.base.shards import Shard
from panbench.scoring.folder import score_folder

__all__ = ["ShardedScoring"]


@dataclass(frozen=True)
class ShardedScoring:
    """A call of `score_folder` in shards. settings: its other arguments"""

    gt: Path
    pred: Path
    out: Path
    settings: Mapping[str, Any]
    overwrite: bool = False
    resume: bool = False
    command: Sequence[str] = ()
    title: str = "Scoring"
    needs_size: bool = False

    @property
    def homes(self) -> tuple[Path]:
        """The folder of the run."""
        return (self.out,)

    def best_size(self, reporter: Reporter) -> int:
        """There are no batches."""
        raise NotImplementedError

    def with_size(self, size: int) -> "ShardedScoring":
        """The same: there are no batches."""
        return self

    def resumed(self) -> "ShardedScoring":
        """Going on with what the shards hold."""
        return replace(self, overwrite=False, resume=True)

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        """Scores the shard."""
        (out,) = folders
        settings = {**self.settings, "overwrite": self.overwrite, "resume": self.resume}
        score_folder(self.gt, self.pred, out=out, shard=shard, reporter=reporter, **settings)
