"""The host of every family: devices, precision, checks for NaN, and the record that goes into run.json."""

import contextlib
import copy
import hashlib
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from panbench.base.errors import BadArgument, BadModel
from panbench.models import onednn, synthetic
from panbench.models.adapter import Adapter
from panbench.models.candidates import Candidates, Instances, NonFiniteOutput, Output, check_classes
from panbench.models.checkpoints import Checkpoint
from panbench.models.devices import AUTOCAST, keep_as_autocast_has_them, tf32_as
from panbench.models.external import check_outputs, code_of, guarded, is_external
from panbench.models.feeding import current
from panbench.models.model import LoadedImage, Model
from panbench.models.rules import Rule
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import ModelRecord

__all__ = ["HostedModel", "count_parameters"]


class HostedModel(Model):
    """A model of any family, ready to run on one device: an adapter, its module, and all that families share."""

    def __init__(
        self,
        adapter: Adapter,
        module: nn.Module,
        *,
        device: torch.device,
        precision: str = "fp32",
        checkpoint: Checkpoint | None = None,
        seed: int = 0,
        random_weights: bool = False,
        speedups: bool = True,
    ) -> None:
        """Use `open_model`."""
        adapter.loaded(module, checkpoint)
        self.adapter = adapter
        self.spec = adapter.spec
        self.device = device
        self.precision = precision
        self.checkpoint = checkpoint
        self.seed = seed
        self.random_weights = random_weights
        self.compiled = False
        self.parameters = count_parameters(module)
        self.class_names, self.isthing, self.rule = adapter.class_names, adapter.isthing, adapter.rule
        if len(self.class_names) != len(self.isthing) or not self.class_names:
            raise BadModel(
                f"{self.spec.title}: its adapter {self.spec.adapter} names {len(self.class_names)} categories and says "
                f"of {len(self.isthing)} whether they are things. Set class_names and isthing, in label order."
            )
        placed = module.to(device).eval()
        self.module = adapter.speed_up(placed, device) if speedups else placed
        if speedups and adapter.half_weights and precision in AUTOCAST:
            keep_as_autocast_has_them(self.module, AUTOCAST[precision])
        self._planted: int | None = None
        self._as_its_processor = False

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the programs that this model runs with, for run.json."""
        return self.adapter.versions

    @property
    def stated_rules(self) -> Mapping[str, Rule]:
        """The adapter's."""
        return self.adapter.stated_rules

    @property
    def settings(self) -> Mapping[str, Any]:
        """By what linear layers run, where not by PyTorch's choice. The size that the model's own image processor has,
        where its paper has another, and whether it is used."""
        found: dict[str, Any] = {"linear": "oneDNN"} if self.is_packed else {}
        if (size := self.adapter.processor_size) is not None:
            found |= {"processor_size": f"{size[0]}×{size[1]}", "processor_size_used": self._as_its_processor}
        return found

    @property
    def is_packed(self) -> bool:
        """Whether linear layers are packed for an evaluation (onednn.py)."""
        return not self.compiled and onednn.serves(self.device, self.precision, self.parameters)

    def as_its_processor(self) -> Model:
        """The same network on images as its own image processor resizes them."""
        other = self.adapter.as_its_processor()
        if other is self.adapter:
            return self
        model = copy.copy(self)
        model.adapter, model._as_its_processor = other, True
        return model

    def scaled(self, factor: float) -> Model:
        """The same network on images `factor` times as large. Raises BadArgument for one of a fixed size."""
        other = copy.copy(self)
        other.adapter = self.adapter.scaled(factor)
        return other

    def describe(self) -> ModelRecord:
        """The model's entry in run.json: name, weights and their hash, parameters."""
        spec, checkpoint = self.spec, self.checkpoint
        # What is published was measured with the published weights.
        return ModelRecord(
            name=spec.name,
            title=spec.title,
            family=self.adapter.family,
            backbone=self.adapter.backbone,
            adapter=spec.adapter,
            config=None if spec.config is None else str(spec.config),
            config_sha256=hashlib.sha256(self.adapter.config_text.encode()).hexdigest(),
            weights=None if checkpoint is None else str(checkpoint.path),
            weights_sha256=None if checkpoint is None else checkpoint.sha256,
            random_weights=self.random_weights,
            params=self.parameters,
            published=None if self.random_weights else spec.published,
        )

    def load(self, scene: Scene) -> LoadedImage:
        """Reads and resizes one image; safe to call from several threads. Raises BadDataset naming the file."""
        with self._guarded([scene]):
            return self.adapter.read(scene)

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Resizes these pixels in place of the image of a scene; safe to call from several threads."""
        with self._guarded([scene]):
            return self.adapter.read_pixels(scene, rgb)

    def _guarded(self, scenes: Sequence[Scene]) -> contextlib.AbstractContextManager[None]:
        """Reports exceptions of foreign code as its own: those of an adapter, or of a config's own classes."""
        name = self.spec.adapter
        return guarded(name, scenes) if is_external(name) else code_of(self.adapter.packages, scenes)

    def batch_key(self, image: ImageInfo) -> Hashable:
        """The size of the network's input for an image; images of equal size may share a batch."""
        return self.adapter.padded_size(image.height, image.width) or (image.height, image.width, "as it is")

    @torch.inference_mode()
    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """The model's output for each image of a batch, on the device. Raises NonFiniteOutput, BadModel."""
        with self._guarded([image.scene for image in batch]), self.numerics():
            try:
                outputs = self.adapter.run(self.module, batch, self.device)
            except Exception as error:
                if not _is_of_dynamo(error):
                    raise
                reason = str(error).strip().splitlines()[0]
                raise BadArgument(
                    f"--precision with +compile: torch.compile cannot compile the network here ({reason}). On a CPU "
                    "it needs a C++ compiler, on CUDA Triton; leave +compile out."
                ) from error
        if is_external(self.spec.adapter):
            check_outputs(self.spec.adapter, self.spec.title, self.adapter, outputs, batch)
        else:
            check_classes(outputs, self.class_names, self.spec.title)
        for output in outputs:
            _refuse_not_finite(output)
        if self._planted is not None:
            return [synthetic.replace_output(output, self._planted) for output in outputs]
        return outputs

    def attend(self, scene: Scene, **wishes: Any) -> Any:
        """What queries looked at in an image; the arguments are those of models.attention.attended_queries."""
        return self.adapter.attend(self, scene, **wishes)

    def plant_segments(self, count: int) -> Callable[[], None]:
        """Makes the model answer with `count` segments, tiles of a grid, in every image; what it returns undoes it.

        The forward pass is not spared anything: only what the network says last is replaced.
        """
        undo = self.adapter.plant_segments(self.module, count)
        if undo is not None:
            return undo
        self._planted = count

        def forget() -> None:
            self._planted = None

        return forget

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Linear layers run packed, where that is faster."""
        return onednn.packed(self.module) if self.is_packed else contextlib.nullcontext()

    @contextlib.contextmanager
    def numerics(self) -> Iterator[None]:
        """The arithmetic that `precision` names, whatever the process has set otherwise."""
        with current(self.device), tf32_as(self.precision) if self.device.type == "cuda" else contextlib.nullcontext():
            if self.precision not in AUTOCAST:
                yield
                return
            with torch.autocast(self.device.type, dtype=AUTOCAST[self.precision]):
                yield


def count_parameters(module: nn.Module) -> int:
    """How many numbers a model learns or has learned; buffers such as BatchNorm's statistics are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def _is_of_dynamo(error: Exception) -> bool:
    # torch._dynamo takes a second to import; where it has not been imported, no error is its.
    dynamo = sys.modules.get("torch._dynamo.exc")
    return dynamo is not None and isinstance(error, dynamo.TorchDynamoException)


def _refuse_not_finite(output: Output) -> None:
    # What is on the host already costs nothing to look at; masks are looked at by the rule, with the map.
    if isinstance(output, Candidates) and not np.isfinite(output.gate).all():
        raise NonFiniteOutput("scores")
    if isinstance(output, Instances) and not np.isfinite(output.scores).all():
        raise NonFiniteOutput("scores")
