"""Stores the outputs of a model while it is evaluated, for `panbench fuse` and ensembles to use later."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from panbench.base.errors import BadRun
from panbench.models.candidates import Output
from panbench.models.rules import Rule
from panbench.models.stored import LOW_GATE, StoredOutputs, encode
from panbench.panoptic.types import Scene
from panbench.runs import candidate_files, candidate_name, write_recorded

__all__ = ["CandidateKeeper"]

WORKERS = 2


class CandidateKeeper:
    """Writes the output for each image into a file of a run, in threads of its own; a listener of the loop."""

    def __init__(self, run: Path, rule: Rule, about: Mapping[str, Any], *, half: bool = False) -> None:
        """Goes on with the files that the run folder has already.

        about: what tells these candidates from others, as {"weights_sha256": …}; half: in float16
        Raises BadRun when the folder holds candidates of another run, or a damaged file.
        """
        self.about = {**about, "rule": str(rule), "low_gate": LOW_GATE, "half": half}
        self.done: frozenset[int] = frozenset()
        """The images that an earlier session stored."""
        if files := candidate_files(run):
            held = StoredOutputs(files[0].parent)
            if held.about != self.about:
                raise BadRun(f"{held.folder} holds candidates that were made with other settings. Give another --out.")
            self.done = frozenset(held.image_ids)
        self._run, self._rule, self._half = run, rule, half
        self._pool = ThreadPoolExecutor(WORKERS, "keep")
        self._pending: deque[Future[None]] = deque()
        self._writing, self._taking = threading.Lock(), threading.Lock()
        self._taken: set[int] = set()

    @property
    def notices(self) -> Sequence[str]:
        """Nothing that was not said before the first image."""
        return ()

    def size_of(self, output: Output) -> int:
        """The bytes that an output takes on disk."""
        return len(self._encoded(output))

    def hear(self, scene: Scene, output: Output) -> None:
        """Takes the output of an image; waits when more are waiting than memory should hold.

        An image is taken once: a batch that a device has no room to fuse comes again in halves.
        """
        image_id = scene.image.id
        with self._taking:
            if image_id in self._taken:
                return
            self._taken.add(image_id)
            self._pending.append(self._pool.submit(self._write, image_id, output))
            while len(self._pending) > 4 * WORKERS:
                self._pending.popleft().result()

    def close(self) -> None:
        """Writes what is left. To be called however the evaluation ends."""
        with self._taking:
            try:
                while self._pending:
                    self._pending.popleft().result()
            finally:
                self._pool.shutdown(wait=True, cancel_futures=True)

    def _encoded(self, output: Output) -> bytes:
        with torch.inference_mode():
            return encode(output, self._rule, self.about, half=self._half)

    def _write(self, image_id: int, output: Output) -> None:
        content = self._encoded(output)
        # One at a time, so that each line of the hashes is whole.
        with self._writing:
            write_recorded(self._run, candidate_name(image_id), content)
