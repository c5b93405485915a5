"""The model interface that the rest of panbench uses.

    model = open_model(find_model("mask2former-tiny"))
    outputs = model.candidates([model.load(scene)])      # Candidates, Instances or a FinishedMap, one an image
    fused = fuse(outputs, model.rule)                     # panbench.models.rules

A family of networks is an `Adapter` (adapter.py); `HostedModel` (host.py) makes a model of it. Whatever else inherits
from `Model`, or has its abstract members (`adopted`), is a model as well. A model in front of another is `Wrapped`.
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
from panbench.models.labels import CategoryIds, match_categories
from panbench.models.rules import Fused, Rule, SettledMap
from panbench.panoptic.photo import PhotoFacts
from panbench.panoptic.types import Category, ImageInfo, Scene
from panbench.runs import ModelRecord

__all__ = ["REQUIRED", "LoadedImage", "Model", "Wrapped", "adopted", "way_of_running"]


@dataclass(frozen=True)
class LoadedImage:
    """An image as the model takes it: `inputs` on the host, and whatever else its adapter needs to know of it.

    facts: what its file says of it, where the model read it by `read_photograph`; the run records that
    """

    scene: Scene
    inputs: Tensor
    sample: Any
    facts: PhotoFacts | None = None


class Model(ABC):
    """What the evaluation needs of a model. Members with a default need not be defined by those that inherit."""

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
    """Of the forward pass: one of devices.PRECISIONS."""
    seed: int = 0
    """From which random weights were drawn."""
    compiled: bool = False
    """Whether torch.compile has compiled the backbone."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Programs and what they run with, beyond the packages that run.json names anyway."""
        return {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else a run must share to be resumed with this model, for run.json's `arguments`."""
        return {}

    @property
    def paper(self) -> Rule:
        """The rule of its paper, where `rule` is another."""
        return self.rule

    @property
    def stated_rules(self) -> Mapping[str, Rule]:
        """Rules by name, with default thresholds from the model's files."""
        return {}

    def as_its_processor(self) -> "Model":
        """The model on images as its own image processor resizes them; itself where its paper does the same."""
        return self

    @abstractmethod
    def describe(self) -> ModelRecord:
        """The model's entry in run.json."""

    @abstractmethod
    def load(self, scene: Scene) -> LoadedImage:
        """Reads and resizes one image; safe to call from several threads. Raises BadDataset naming the file."""

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Like `load`, with these (H, W, 3) pixels instead of the scene's image file.

        Raises BadModel where the model can read files only.
        """
        raise BadModel(f"{self.spec.title} reads its images from files: it cannot be shown changed ones.")

    @abstractmethod
    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """The outputs for a batch, one an image, on the device. Raises NonFiniteOutput."""

    def batch_key(self, image: ImageInfo) -> Hashable:
        """Images for which this is equal may share a batch; by default those of one size."""
        return image.height, image.width

    def settle(self, fused: Fused, rule: Rule) -> SettledMap:
        """The id map and segments of a map that a rule fused, on the host. Raises NonFiniteOutput."""
        return rule.settle(fused)

    def category_ids(self, categories: Sequence[Category]) -> CategoryIds:
        """The dataset's category id of each label. Raises BadModel, showing the difference, when names do not match."""
        if not self.class_names:
            # A model without categories of its own answers in the dataset's ids.
            return {category.id: category.id for category in categories}
        return match_categories(self.spec.title, self.class_names, self.isthing, categories)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Entered while one evaluation runs, for what is kept for it alone."""
        return contextlib.nullcontext()

    def scaled(self, factor: float) -> "Model":
        """The model on images `factor` times as large. Raises BadArgument where that cannot be done."""
        raise BadArgument(f"{self.spec.title} is not a network alone, and --size needs one.")

    def attend(self, scene: Scene, **wishes: Any) -> Any:
        """What queries attend to in an image, as panoptic.attention's records. Raises BadModel without queries."""
        raise BadModel(f"{self.spec.title} shows no attention: panbench does not know where its queries look.")

    def plant_segments(self, count: int) -> Callable[[], None]:
        """Makes the model answer with `count` segments, for timing untrained models; returns what undoes it.

        Raises BadArgument where that cannot be done.
        """
        raise BadArgument(f"{self.spec.title} cannot be made to answer with segments. Leave --plant out.")


class Wrapped(Model):
    """Wraps a model and forwards every member; subclasses override some."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self.spec, self.device, self.rule = inner.spec, inner.device, inner.rule
        self.class_names, self.isthing = inner.class_names, inner.isthing
        self.precision, self.seed, self.compiled = inner.precision, inner.seed, inner.compiled

    @property
    def versions(self) -> Mapping[str, str]:
        """The inner model's."""
        return self.inner.versions

    @property
    def settings(self) -> Mapping[str, Any]:
        """The inner model's."""
        return self.inner.settings

    @property
    def paper(self) -> Rule:
        """The inner model's."""
        return self.inner.paper

    @property
    def stated_rules(self) -> Mapping[str, Rule]:
        """The inner model's."""
        return self.inner.stated_rules

    def describe(self) -> ModelRecord:
        """The inner model's record."""
        return self.inner.describe()

    def load(self, scene: Scene) -> LoadedImage:
        """The image as the inner model loads it."""
        return self.inner.load(scene)

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """The pixels as the inner model loads them."""
        return self.inner.load_pixels(scene, rgb)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """The inner model's outputs."""
        return self.inner.candidates(batch)

    def batch_key(self, image: ImageInfo) -> Hashable:
        """The inner model's."""
        return self.inner.batch_key(image)

    def settle(self, fused: Fused, rule: Rule) -> SettledMap:
        """The map as the inner model settles it."""
        return self.inner.settle(fused, rule)

    def category_ids(self, categories: Sequence[Category]) -> CategoryIds:
        """The inner model's."""
        return self.inner.category_ids(categories)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """The inner model's."""
        return self.inner.evaluating()

    def attend(self, scene: Scene, **wishes: Any) -> Any:
        """What the inner model's queries looked at."""
        return self.inner.attend(scene, **wishes)

    def plant_segments(self, count: int) -> Callable[[], None]:
        """Makes the inner model answer with `count` segments."""
        return self.inner.plant_segments(count)


class _Adopted(Wrapped):
    """A model that does not inherit from `Model`, with the defaults of the members that it lacks."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        for name in (*REQUIRED[:5], "precision", "seed", "compiled"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def __getattribute__(self, name: str) -> Any:
        # What the inner model lacks is the default's, not the inner model's.
        if name in _OPTIONAL and not hasattr(object.__getattribute__(self, "inner"), name):
            return Model.__dict__[name].__get__(self)
        return object.__getattribute__(self, name)


REQUIRED = ("class_names", "isthing", "device", "rule", "spec", "describe", "load", "candidates")
"""The members that every model defines."""

_OPTIONAL = frozenset(
    {
        *("versions", "settings", "paper", "stated_rules", "load_pixels", "batch_key", "settle", "category_ids"),
        *("attend", "plant_segments", "evaluating"),
    }
)


def adopted(made: Any) -> Model:
    """`made` as a model: itself where it inherits from `Model`, else with the defaults of the members that it lacks.

    Raises BadModel when it lacks one of REQUIRED.
    """
    if isinstance(made, Model):
        return made
    missing = [name for name in REQUIRED if not hasattr(made, name)]
    if missing:
        raise BadModel(
            f"A {type(made).__name__} without {', '.join(missing)} is not a model (panbench.models.model.Model)."
        )
    return _Adopted(made)


def way_of_running(model: Model) -> dict[str, Any]:
    """How a model computes: precision, whether its backbone is compiled, the seed of random weights, its `settings`."""
    return {
        "precision": model.precision,
        "compiled": model.compiled,
        "seed": model.seed,
        **model.settings,
    }
