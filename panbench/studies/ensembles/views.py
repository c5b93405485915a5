"""Test-time augmentation: a model that sees each image mirrored and at several scales, and averages what it says."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.models.adapter import Adapter
from panbench.models.candidates import Output
from panbench.models.host import HostedModel
from panbench.models.model import LoadedImage, Model, Wrapped, way_of_running
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import ModelRecord
from panbench.studies.ensembles.merging import flip, merge_outputs

__all__ = ["AugmentedModel", "Views", "parse_views"]


@dataclass(frozen=True)
class Views:
    """The views of an image: each scale, and mirrored too where `flip`. The first is the image as it is."""

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __len__(self) -> int:
        return len(self.scales) * (2 if self.flip else 1)

    def __str__(self) -> str:
        scales = "scales=" + ":".join(f"{scale:g}" for scale in self.scales)
        return f"flip,{scales}" if self.flip else scales


def parse_views(text: str) -> Views:
    """The views that `flip,scales=0.75:1.25` names; scale 1 is always among them. Raises BadArgument."""
    scales, mirrored = [1.0], False
    for word in (word.strip() for word in text.split(",") if word.strip()):
        name, equals, values = word.partition("=")
        if name == "flip" and not equals:
            mirrored = True
        elif name == "scales" and values:
            try:
                scales += [float(value) for value in values.split(":")]
            except ValueError:
                raise BadArgument(f"--tta {word}: scales are numbers, as in scales=0.75:1.25.") from None
        elif name != "none":
            raise BadArgument(f"--tta {word}: views are flip, and scales=0.75:1.25. Or none, for the image alone.")
    outside = [scale for scale in scales if not 0.1 <= scale <= 4]
    if outside:
        raise BadArgument(f"--tta: scales lie between 0.1 and 4, not {listed(outside)}.")
    return Views(tuple(dict.fromkeys(scales)), mirrored)


class AugmentedModel(Wrapped):
    """Another model that sees several views of each image.

    With the image as it is for the only view its answers are those of the model, to the bit.
    """

    def __init__(self, model: Model, views: Views) -> None:
        """model: one with an adapter (all but functions). Raises BadArgument when it cannot be shown the views."""
        if not isinstance(model, HostedModel):
            raise BadArgument(f"{model.spec.title} gives finished id maps: --tta needs a network's masks.")
        super().__init__(model)
        self.views = views
        self._readers: list[Adapter] = [
            model.adapter if scale == 1.0 else model.adapter.scaled(scale) for scale in views.scales
        ]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a run must share to be gone on with, besides the model: the views."""
        return {**way_of_running(self.inner), "tta": str(self.views)}

    def describe(self) -> ModelRecord:
        """The model's own record; published numbers are those of one view, so they go."""
        described = self.inner.describe()
        return replace(described, published=None) if len(self.views) > 1 else described

    def load(self, scene: Scene) -> LoadedImage:
        """The image at every scale."""
        first, *others = (reader.read(scene) for reader in self._readers)
        return replace(first, sample=(first, *others))

    def batch_key(self, image: ImageInfo) -> Hashable:
        """The size of the network's input at every scale."""
        sizes = [reader.padded_size(image.height, image.width) for reader in self._readers]
        return (image.height, image.width, "as it is") if None in sizes else tuple(sizes)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """The merged answer to the views of each image; each view goes through the model as a batch."""
        answers: list[Sequence[Output]] = []
        for place in range(len(self.views.scales)):
            seen = [image.sample[place] for image in batch]
            answers.append(self.inner.candidates(seen))
            if self.views.flip:
                mirrored = [self._readers[place].mirrored(image) for image in seen]
                answers.append([flip(answer) for answer in self.inner.candidates(mirrored)])
        return [merge_outputs(of_image) for of_image in zip(*answers, strict=True)]
