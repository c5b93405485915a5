"""The model interface that the rest of panbench uses.

    model = open_model(find_model("mask2former-tiny"))
    outputs = model.candidates([model.load(scene)])      # Candidates, Instances or a FinishedMap, one an image
    fused = fuse(outputs, model.rule)                     # panbench.models.rules

A family of networks is an `Adapter` (adapter.py); `HostedModel` (host.py) makes a model of it. Whatever else inherits
from `Model`, or has its abstract members (`as_model`), is a model as well. A model in front of another is `Wrapped`.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import ModelSpec
from panbench.models.candidates import Output
from panbench.models.decoders import Decoder
from panbench.models.labels import CategoryIds, match_categories
from panbench.models.rules import Fused, Rule, SegmentedMap
from panbench.panoptic.photo import PhotoFacts
from panbench.panoptic.types import Category, ImageInfo, Scene
from panbench.runs import ModelRecord


@dataclass(frozen=True)
class LoadedImage:
    """Holds an image ready for the model: `inputs` on the host, and `sample`, whatever else its adapter needs.

    facts: from `read_photograph`, for the run's record; None if the file was read in another way
    """

    scene: Scene
    inputs: Tensor
    sample: Any
    facts: PhotoFacts | None = None


class Model(ABC):
    """Declares what an evaluation needs of a model; members with a default here may be left undefined."""

    spec: ModelSpec
    """Name, title, weights and published numbers; `spec.weights` are those that are loaded."""
    class_names: tuple[str, ...]
    """The category names in label order; () when the model's labels are the category ids of the dataset."""
    isthing: tuple[bool, ...]
    """For each label, whether it is a thing."""
    device: torch.device
    rule: Rule
    """The fusion rule of its paper, with the thresholds of its config."""

    precision: str = "fp32"
    """The precision of the forward pass: one of base.computing.PRECISIONS."""
    seed: int = 0
    """The seed of random weights."""
    compiled: bool = False
    """Whether torch.compile has compiled the backbone."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Names and versions for run.json, in addition to the packages that it always names."""
        return {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings besides precision that a resumed run must share; stored in run.json's `arguments`."""
        return {}

    @property
    def paper(self) -> Rule:
        """The fusion rule of the model's paper, also if `rule` is another one that was chosen."""
        return self.rule

    @property
    def declared_rules(self) -> Mapping[str, Rule]:
        """The fusion rules by name for which the model's files give default thresholds."""
        return {}

    def as_its_processor(self) -> "Model":
        """Returns the model with images resized by its Hugging Face image processor instead of as in its paper.

        Returns itself if both resize alike.
        """
        return self

    @abstractmethod
    def describe(self) -> ModelRecord:
        """Returns the model's entry in run.json."""

    @abstractmethod
    def load(self, scene: Scene) -> LoadedImage:
        """Reads and resizes one image; safe to call from several threads. Raises BadDataset naming the file."""

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Prepares the given (H, W, 3) pixels of an image, instead of reading its file.

        Raises BadModel if the model can only read files.
        """
        raise BadModel(f"{self.spec.title} reads images from files only, so it cannot run on changed images.")

    @abstractmethod
    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """Returns the network's output for each image of a batch, on the device. Raises NonFiniteOutput."""

    def batch_key(self, image: ImageInfo) -> Hashable:
        """Returns a key that is equal for images that may share a batch; by default the image's size."""
        return image.height, image.width

    def to_segments(self, fused: Fused, rule: Rule) -> SegmentedMap:
        """Turns a fused map on the host into an id map and its segments. Raises NonFiniteOutput."""
        return rule.to_segments(fused)

    def category_ids(self, categories: Sequence[Category]) -> CategoryIds:
        """Returns the dataset's category id of each label. Raises BadModel if the category names differ."""
        if not self.class_names:
            # A model without categories of its own answers in the dataset's ids.
            return {category.id: category.id for category in categories}
        return match_categories(self.spec.title, self.class_names, self.isthing, categories)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which one evaluation runs; a model may hold caches in it."""
        return contextlib.nullcontext()

    def scaled(self, factor: float) -> "Model":
        """Returns the model with images `factor` times as large. Raises BadArgument if that is impossible."""
        raise self._not_a_network()

    def mirrored(self, image: LoadedImage) -> LoadedImage:
        """Returns a loaded image flipped left to right. Raises BadArgument if that is impossible."""
        raise self._not_a_network()

    def with_copied_network(self) -> "tuple[Model, Decoder | None]":
        """Returns the model on a copy of its network that shares the weights, and the copy's decoder.

        The decoder's last layers can be cut off without changing the original.

        Raises BadArgument if that is impossible.
        """
        raise self._not_a_network()

    def _not_a_network(self) -> BadArgument:
        """Returns the error for options that need a network which panbench runs itself."""
        return BadArgument(f"{self.spec.title} is not a plain network, which --size, --tta and --layers need.")

    def attend(self, scene: Scene, **arguments: Any) -> Any:
        """Returns where queries attend in an image, as AttendedQuery. Raises BadModel for a model without queries."""
        raise BadModel(f"{self.spec.title} shows no attention: panbench does not know its queries.")

    def plant_segments(self, count: int) -> Callable[[], None]:
        """Makes the model output `count` segments, for timing untrained models; returns a function that undoes it.

        Raises BadArgument if that is impossible.
        """
        raise BadArgument(f"{self.spec.title} cannot output planted segments. Leave out --plant.")


REQUIRED = ("class_names", "isthing", "device", "rule", "spec", "describe", "load", "candidates")
"""The members that every model defines."""

_FORWARDED = (
    *("versions", "settings", "paper", "declared_rules", "load_pixels", "batch_key", "to_segments", "category_ids"),
    *("evaluating", "attend", "plant_segments"),
)


def _forwarding_property(name: str) -> property:
    """Makes a property of Wrapped that reads the wrapped model's member, or Model's default if it has none."""

    def read_member(model: "Wrapped") -> Any:
        """Returns the wrapped model's value of the member, or Model's default if it has none."""
        inner: Any = model.inner
        # A class that does not inherit from Model may lack the member: use Model's default.
        if isinstance(inner, Model) or hasattr(inner, name):
            return getattr(inner, name)
        return Model.__dict__[name].__get__(model)

    return property(read_member, doc=f"The wrapped model's {name}.")


class Wrapped(Model):
    """Wraps a model and forwards every member to it; subclasses override some."""

    inner: Model

    def __init__(self, inner: Any) -> None:
        """Takes the model to wrap: a Model, or any object with the members that a Model must have."""
        self.inner = inner
        for name in (*REQUIRED[:5], "precision", "seed", "compiled"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def describe(self) -> ModelRecord:
        """Returns the wrapped model's entry in run.json."""
        return self.inner.describe()

    def load(self, scene: Scene) -> LoadedImage:
        """Loads a dataset's image as the wrapped model does."""
        return self.inner.load(scene)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """Runs the wrapped model on a batch; returns an output per image."""
        return self.inner.candidates(batch)


for _name in _FORWARDED:
    setattr(Wrapped, _name, _forwarding_property(_name))


def as_model(made: Any) -> Model:
    """Returns an object as a Model: itself if it is one, else wrapped, with defaults for missing members.

    Raises BadModel if one of REQUIRED is missing.
    """
    if isinstance(made, Model):
        return made
    missing = [name for name in REQUIRED if not hasattr(made, name)]
    if missing:
        raise BadModel(
            f"A {type(made).__name__} without {', '.join(missing)} is not a model (panbench.models.model.Model)."
        )
    return Wrapped(made)


def running_settings(model: Model) -> dict[str, Any]:
    """Returns what decides a model's numbers: precision, compiled, the seed of random weights, and `settings`."""
    return {
        "precision": model.precision,
        "compiled": model.compiled,
        "seed": model.seed,
        **model.settings,
    }
