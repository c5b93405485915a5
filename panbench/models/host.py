"""Runs models of all families: device, precision, checks for NaN, and the record for run.json."""

import contextlib
import copy
import functools
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
from panbench.models.async_device import current
from panbench.models.attention import attended_queries
from panbench.models.candidates import Candidates, Instances, NonFiniteOutput, Output, check_classes
from panbench.models.checkpoints import Checkpoint
from panbench.models.decoders import Decoder, sharing_weights
from panbench.models.devices import AUTOCAST, cast_weights_for_autocast, tf32_as
from panbench.models.external import check_outputs, guarded_model_code, guarded_package_code, is_external
from panbench.models.model import LoadedImage, Model
from panbench.models.rules import Rule
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import ModelRecord


class HostedModel(Model):
    """Runs a network of any family on one device: adapter and module, with precision, speed-ups and checks for NaN."""

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
        """Places a built network on its device and speeds it up; called by `open_model`."""
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
                f"{self.spec.title}: its adapter {self.spec.adapter} names {len(self.class_names)} categories, but has "
                f"isthing for {len(self.isthing)}. Set class_names and isthing, in label order."
            )
        placed = module.to(device).eval()
        self.module = adapter.speed_up(placed, device) if speedups else placed
        if speedups and adapter.half_weights and precision in AUTOCAST:
            cast_weights_for_autocast(self.module, AUTOCAST[precision])
        self._planted: int | None = None
        self._as_its_processor = False

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions that the adapter adds to run.json."""
        return self.adapter.versions

    @property
    def declared_rules(self) -> Mapping[str, Rule]:
        """The adapter's fusion rules by name, with the thresholds of the model's files."""
        return self.adapter.declared_rules

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings for run.json: use of oneDNN, the image processor's size, and whether images get that size."""
        found: dict[str, Any] = {"linear": "oneDNN"} if self.uses_onednn else {}
        if (size := self.adapter.processor_size) is not None:
            found |= {"processor_size": f"{size[0]}×{size[1]}", "processor_size_used": self._as_its_processor}
        return found

    @property
    def uses_onednn(self) -> bool:
        """True if an evaluation runs linear layers by oneDNN (onednn.py)."""
        return not self.compiled and onednn.serves(self.device, self.precision, self.parameters)

    def as_its_processor(self) -> Model:
        """Returns the model with images resized by its own image processor."""
        other = self.adapter.as_its_processor()
        if other is self.adapter:
            return self
        model = copy.copy(self)
        model.adapter, model._as_its_processor = other, True
        return model

    def scaled(self, factor: float) -> Model:
        """Returns the model with images `factor` times as large. Raises BadArgument for a network of a fixed size."""
        if factor == 1.0:
            return self
        other = copy.copy(self)
        other.adapter = self.adapter.scaled(factor)
        return other

    def mirrored(self, image: LoadedImage) -> LoadedImage:
        """Returns the loaded image flipped left to right by the adapter."""
        return self.adapter.mirrored(image)

    def with_copied_network(self) -> tuple[Model, Decoder | None]:
        """Returns the model on a copy of its network, and the copy's decoder, which can be cut; weights are shared."""
        other = copy.copy(self)
        other.module = sharing_weights(self.module)
        return other, self.adapter.decoder(other.module)

    def describe(self) -> ModelRecord:
        """Returns the model's entry in run.json: name, weights and their hash, parameters."""
        spec, checkpoint = self.spec, self.checkpoint
        # Published numbers hold for the published weights only.
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
        with self._reporting_foreign_errors([scene]):
            return self.adapter.read(scene)

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Prepares the given pixels in place of the scene's image file; safe to call from several threads."""
        with self._reporting_foreign_errors([scene]):
            return self.adapter.read_pixels(scene, rgb)

    def _reporting_foreign_errors(self, scenes: Sequence[Scene]) -> contextlib.AbstractContextManager[None]:
        """Returns a context that turns exceptions of another package's adapter or classes into ModelFailed."""
        name = self.spec.adapter
        return (
            guarded_model_code(name, scenes)
            if is_external(name)
            else guarded_package_code(self.adapter.packages, scenes)
        )

    def batch_key(self, image: ImageInfo) -> Hashable:
        """Returns the network's input size for an image, else the image's size; images of one key share batches."""
        return self.adapter.padded_size(image.height, image.width) or (image.height, image.width, "as it is")

    @torch.inference_mode()
    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """Runs the network on a batch; returns an output per image, on the device. Raises NonFiniteOutput, BadModel."""
        with self._reporting_foreign_errors([image.scene for image in batch]), self.autocast_and_tf32():
            try:
                outputs = self.adapter.run(self.module, batch, self.device)
            except Exception as error:
                if not _is_compile_error(error):
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
            _refuse_non_finite_scores(output)
        if self._planted is not None:
            return [synthetic.plant_in_output(output, self._planted) for output in outputs]
        return outputs

    def attend(self, scene: Scene, **arguments: Any) -> Any:
        """Returns where queries attend in an image, as AttendedQuery; arguments: those of `attended_queries`."""
        image = self.load(scene)
        with torch.inference_mode(), self.autocast_and_tf32():
            return attended_queries(self, self.adapter.attend(self.module, image, self.device), **arguments)

    def plant_segments(self, count: int) -> Callable[[], None]:
        """Makes the model output `count` rectangular segments for every image; returns a function that undoes it.

        The complete forward pass runs; only its final output is replaced.
        """
        undo = self.adapter.plant_segments(self.module, count)
        if undo is not None:
            return undo
        self._planted = count
        return functools.partial(setattr, self, "_planted", None)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context for one evaluation, in which oneDNN computes linear layers if that is faster."""
        return onednn.packed(self.module) if self.uses_onednn else contextlib.nullcontext()

    @contextlib.contextmanager
    def autocast_and_tf32(self) -> Iterator[None]:
        """Sets autocast and TF32 within the block as the model's precision demands."""
        with current(self.device), tf32_as(self.precision) if self.device.type == "cuda" else contextlib.nullcontext():
            if self.precision not in AUTOCAST:
                yield
                return
            with torch.autocast(self.device.type, dtype=AUTOCAST[self.precision]):
                yield


def count_parameters(module: nn.Module) -> int:
    """Counts a model's parameters, without buffers such as BatchNorm's statistics."""
    return sum(parameter.numel() for parameter in module.parameters())


def _is_compile_error(error: Exception) -> bool:
    """Returns whether an exception comes from torch.compile."""
    # Importing torch._dynamo takes a second; if it is not imported yet, it did not raise the error.
    dynamo = sys.modules.get("torch._dynamo.exc")
    return dynamo is not None and isinstance(error, dynamo.TorchDynamoException)


def _refuse_non_finite_scores(output: Output) -> None:
    """Raises NonFiniteOutput if scores on the host are NaN or infinite; the fusion rule checks the masks."""
    # Checks only what is on the host; the rule checks the masks.
    if isinstance(output, Candidates) and not np.isfinite(output.gate).all():
        raise NonFiniteOutput("scores")
    if isinstance(output, Instances) and not np.isfinite(output.scores).all():
        raise NonFiniteOutput("scores")
