"""Stores the outputs of a model while it is evaluated, for `panbench fuse` and ensembles to use later."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from panbench.base.download import require_space
from panbench.base.errors import BadRun
from panbench.evaluation.options import Evaluation
from panbench.evaluation.sinks import Later, SeenImage, Sink
from panbench.models.candidates import Output
from panbench.models.model import LoadedImage, way_of_running
from panbench.models.rules import Rule
from panbench.models.stored import LOW_GATE, StoredOutputs, encode
from panbench.runs import candidate_files, candidate_name, write_recorded

__all__ = ["CandidateKeeper", "keeper_of"]


class CandidateKeeper(Sink):
    """Writes the output for each image into a file of a run."""

    def __init__(self, run: Path, rule: Rule, about: Mapping[str, Any], *, half: bool = False) -> None:
        """Goes on with the files that the run folder has already.

        about: what tells these candidates from others, as {"weights_sha256": …}; half: in float16
        Raises BadRun when the folder holds candidates of another run, or a damaged file.
        """
        self.about = {**about, "rule": str(rule), "low_gate": LOW_GATE, "half": half}
        if files := candidate_files(run):
            held = StoredOutputs(files[0].parent)
            if held.about != self.about:
                raise BadRun(f"{held.folder} holds candidates that were made with other settings. Give another --out.")
            self.done = frozenset(held.image_ids)
        self._run, self._rule, self._half = run, rule, half

    @torch.inference_mode()
    def encoded(self, output: Output) -> bytes:
        """The file of an output."""
        return encode(output, self._rule, self.about, half=self._half)

    def on_output(self, image: LoadedImage, output: Output) -> Later:
        """Leaves encoding to the host."""

        def encoded(seen: SeenImage) -> tuple[int, bytes]:
            return seen.scene.image.id, self.encoded(output)

        return encoded

    def keep(self, found: Sequence[tuple[int, bytes]]) -> None:
        """Writes a file an image."""
        for image_id, content in found:
            write_recorded(self._run, candidate_name(image_id), content)


def keeper_of(evaluation: Evaluation, run: Path) -> CandidateKeeper:
    """The sink that stores candidates in a run, with all that `panbench fuse` needs to know of the model.

    Reports what they will take on disk, measured on three images. Raises OutOfSpace when there is no room.
    """
    model, dataset = evaluation.model, evaluation.dataset
    about = {
        "weights_sha256": model.describe().weights_sha256,
        "class_names": list(model.class_names),
        "isthing": list(model.isthing),
        "precision": way_of_running(model)["precision"],
    }
    half = evaluation.options.half_precision
    keeper = CandidateKeeper(run, model.rule, about, half=half)
    tried = dataset.scenes[:: max(1, len(dataset.scenes) // 3)][:3]
    size = sum(len(keeper.encoded(model.candidates([model.load(scene)])[0])) for scene in tried) // len(tried)
    needed = size * len(dataset.scenes)
    require_space(run, needed, "Keeping the candidates")
    evaluation.reporter.notice(
        f"Candidates take about {size / 1e6:.2f} MB per image (measured on {len(tried)}), {needed / 1e6:,.0f} MB for "
        f"{len(dataset.scenes):,} images."
        + (" In half precision, the maps that fuse makes of them may differ from this run's." if half else "")
    )
    return keeper
