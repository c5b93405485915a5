"""Stores the outputs of a model while it is evaluated, for `panbench fuse` and ensembles to use later."""

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from panbench.base.errors import BadRun
from panbench.models.candidates import Output
from panbench.models.rules import Rule
from panbench.models.stored import LOW_GATE, Encoded, StoredOutputs, block_of, encode
from panbench.panoptic.types import Scene
from panbench.runs import write_recorded

__all__ = ["CandidateKeeper"]

BLOCK_BYTES = 64 << 20
BLOCK_SECONDS = 10.0
"""A block is written when it has this many bytes, or after this time: what memory holds, and what a kill can cost."""


class CandidateKeeper:
    """Encodes outputs in threads of its own and writes them to a folder, block by block; a listener of the loop."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        rule: Rule,
        about: Mapping[str, Any],
        *,
        exact: bool = True,
        workers: int = 2,
    ) -> None:
        """Goes on with what the folder, in the folder of its run, holds already.

        about: what tells these candidates from others, as {"weights_sha256": …}
        exact: masks are exact where the map of `rule` needs it; else half precision throughout
        Raises BadRun when the folder holds candidates of another run, or a damaged file.
        """
        self.folder = Path(folder)
        self.about = {**about, "rule": str(rule), "low_gate": LOW_GATE, "exact": exact}
        self.differing = 0
        """Pixels that half precision changes in the rule's maps; mended when `exact`."""
        self.done: frozenset[int] = frozenset()
        if any(self.folder.glob("[0-9]*.arrow")):
            held = StoredOutputs(self.folder)
            if held.about != self.about:
                raise BadRun(f"{self.folder} holds candidates that were made with other settings. Give another --out.")
            self.done = frozenset(held.image_ids)
        self._rule, self._exact = rule, exact
        self._pool = ThreadPoolExecutor(workers, "keep")
        self._most = 4 * workers
        self._pending: deque[tuple[int, Future[Encoded]]] = deque()
        self._block: list[tuple[int, Encoded]] = []
        self._bytes = 0
        self._block_since = time.monotonic()
        self._lock = threading.Lock()
        self._taken: set[int] = set()

    @property
    def notices(self) -> Sequence[str]:
        """What half precision costs, where it was asked for."""
        if self._exact:
            return ()
        return (f"Half precision changes {self.differing:,} pixels of the maps that fuse will make.",)

    def hear(self, scene: Scene, output: Output) -> None:
        """Takes the output of an image; waits when more are waiting than memory should hold.

        An image is taken once: a batch that a device has no room to fuse comes again in halves.
        """
        image_id = scene.image.id
        with self._lock:
            if image_id in self._taken:
                return
            self._taken.add(image_id)
            self._pending.append((image_id, self._pool.submit(self._encoded, output)))
            while len(self._pending) > self._most:
                self._collect()

    def close(self) -> None:
        """Writes what is left. To be called however the evaluation ends."""
        with self._lock:
            try:
                while self._pending:
                    self._collect()
                self._write()
            finally:
                self._pool.shutdown(wait=True, cancel_futures=True)

    def _encoded(self, output: Output) -> Encoded:
        with torch.inference_mode():
            return encode(output, self._rule, exact=self._exact)

    def _collect(self) -> None:
        image_id, future = self._pending.popleft()
        encoded = future.result()
        self.differing += encoded.differing
        self._block.append((image_id, encoded))
        self._bytes += encoded.size
        if self._bytes >= BLOCK_BYTES or time.monotonic() - self._block_since >= BLOCK_SECONDS:
            self._write()

    def _write(self) -> None:
        if self._block:
            taken = [int(path.stem.split("-")[1]) for path in self.folder.glob("0000-*.arrow")]
            number = max(taken, default=-1) + 1
            name = f"{self.folder.name}/0000-{number:06d}.arrow"
            write_recorded(self.folder.parent, name, block_of(self._block, self.about))
            self._block, self._bytes = [], 0
        self._block_since = time.monotonic()
