"""Thumbnails of a list of images: the size and the layers that the list shows, made once and kept for a while."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from panbench.base.errors import PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.report.pages.page.gallery import Examples

__all__ = ["KEPT", "SIDE", "Thumbnails"]

SIDE, QUALITY = 264, 55
"""The longest side in pixels, twice that of the list, which dense screens show; and the quality of the JPEG."""

KEPT = 2000
"""Thumbnails that stay in memory, about 10 kB each."""


class Thumbnails:
    """The gallery's records of images, small and with one model each. Not for several threads at once.

    refuse: raises PanbenchError for an image that must not be shown
    """

    def __init__(self, examples: Examples, refuse: Callable[[int], None]) -> None:
        self._examples = examples
        self._refuse = refuse
        self._kept: OrderedDict[tuple[int, int], dict[str, Any]] = OrderedDict()

    def of(
        self, images: Sequence[int], models: Mapping[int, int], reporter: Reporter = SILENT
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """The records of the images that can be shown, and a sentence for each that cannot.

        models: of each image the place of the model whose answer is shown
        """
        self._judge([image for image in images if (image, models[image]) not in self._kept], models)
        records, faults = [], []
        for number, image in enumerate(images):
            reporter.progress("Examples", number, len(images))
            try:
                records.append(self._record(image, models[image]))
            except PanbenchError as problem:
                faults.append(str(problem))
        return records, faults

    def _judge(self, images: Sequence[int], models: Mapping[int, int]) -> None:
        """Finds verdicts and causes of all images of a model at once, which takes far less time than one by one."""
        for model in {models[image] for image in images}:
            if source := self._examples.sources[model]:
                source.judge([image for image in images if models[image] == model])

    def _record(self, image: int, model: int) -> dict[str, Any]:
        key = image, model
        if key not in self._kept:
            self._refuse(image)
            made = self._examples.example(image, (), SIDE, QUALITY, only=model)
            self._kept[key] = {**made, "part": True}
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
