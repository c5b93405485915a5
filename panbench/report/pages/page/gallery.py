"""The examples of the page: which images are worth a look and why, and their pictures packed for the scripts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from panbench.base.errors import PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.panoptic.parts import in_order
from panbench.report.answers.remaking import command_with_predictions
from panbench.report.answers.views import Compared
from panbench.report.figures.cutting import PricedError
from panbench.report.figures.pictures import Pictures, RunPictures
from panbench.report.pages.page.packing import Packer

__all__ = ["EXAMPLES", "Examples", "Gallery", "pack_pictures"]

EXAMPLES = 96
"""At most so many images are chosen; fewer where fewer show all that the page lists."""

FEW = 16
"""By so many images the size of all is judged first."""


@dataclass(frozen=True)
class Gallery:
    """The examples of a page: records for its JSON, and a sentence for what is left out.

    commands: command lines that make the runs without predictions again with them
    live: a server has them all, and the page asks it
    """

    images: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    live: bool = False

    @property
    def shown(self) -> bool:
        """Whether the page has pictures."""
        return self.live or bool(self.images)


class Examples:
    """The pictures of some runs, as the page's scripts take them.

    sources: of each run its stored predictions, None where it kept none; missing: sentences on those, before the
    commands (of `Gallery`) that make them
    """

    def __init__(self, members: Sequence[Compared], pictures: Pictures) -> None:
        self.members = members
        self.pictures = pictures
        found = [RunPictures(member.run, member.label) for member in members]
        self.sources = tuple(source if source.folder else None for source in found)
        without = [member for member, source in zip(members, self.sources, strict=True) if source is None]
        self.commands = tuple(dict.fromkeys(filter(None, (command_with_predictions(one.run) for one in without))))
        missing = [f"{one.label} has no stored predictions and is not in the pictures." for one in without]
        if without and len(without) == len(members):
            missing = ["No run has stored predictions, so this page has no pictures."]
        if self.commands:
            missing.append("To repeat the runs with predictions, run this where they were made:")
        elif without:
            missing.append("`panbench eval … --save-predictions` and `panbench score` make runs that have them.")
        self.missing = tuple(missing)
        self.packer = Packer(self.sources, pictures, members[0].run)

    def example(
        self, image_id: int, reasons: Sequence[str], side: int, quality: int, only: int | None = None
    ) -> dict[str, Any]:
        """As `Packer.example`."""
        return self.packer.example(image_id, reasons, side, quality, only)


def pack_pictures(
    examples: Examples,
    chosen: Mapping[int, Sequence[str]],
    errors: Mapping[int, Sequence[tuple[int, PricedError]]],
    sizes: Sequence[tuple[int, int]],
    room: int,
    reporter: Reporter = SILENT,
) -> tuple[Gallery, dict[int, Any]]:
    """The examples, and of each image with `errors` the records of its crops in their order, or why there are none.

    chosen: the reasons of each example; errors: (place of its run, error) by image
    sizes: longest side and JPEG quality, of which the first is taken whose pictures have `room` bytes beside the crops
    """
    if not any(examples.sources):
        return Gallery((), examples.missing, examples.commands) if chosen else Gallery(), {}
    packer = examples.packer
    if problem := packer.problem():
        return Gallery((), (problem,)), {}
    for source in filter(None, examples.sources):
        source.judge(dict.fromkeys([*chosen, *errors]))

    def packed(images: Iterable[int], size: tuple[int, int]) -> tuple[list[dict[str, Any]], list[str]]:
        found = _each([partial(packer.example, image, chosen[image], *size) for image in images], reporter)
        return [one for one in found if not isinstance(one, str)], [one for one in found if isinstance(one, str)]

    crops = dict(zip(errors, _each([partial(packer.crops, *one) for one in errors.items()], reporter), strict=True))
    left = room - sum(len(str(one)) for one in crops.values())
    few = list(chosen)[:FEW]
    records, faults = packed(few, sizes[0])
    guessed = (
        place for place, (side, _) in enumerate(sizes) if _weight(records, side) * len(chosen) <= left * len(few)
    )
    for size in sizes[next(guessed, len(sizes) - 1) :]:
        if size != sizes[0] or len(few) < len(chosen):
            records, faults = packed(chosen, size)
        if _weight(records) <= left:
            break
    missing = [f"{len(faults)} of {len(chosen)} examples are left out; the first: {faults[0]}"] if faults else []
    # Last the sentence that the commands follow.
    return Gallery(tuple(records), (*missing, *examples.missing), examples.commands), crops


def _each(work: Sequence[Callable[[], Any]], reporter: Reporter) -> list[Any]:
    """What each function returns, or the sentence of the PanbenchError that it raises; on all cores."""
    found = []
    for number, one in enumerate(in_order([partial(_or_why, call) for call in work]), start=1):
        reporter.progress("Packing pictures", number, len(work))
        found.append(one)
    return found


def _or_why(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except PanbenchError as problem:
        return str(problem)


def _weight(records: Iterable[Mapping[str, Any]], side: int | None = None) -> float:
    """About how many bytes records take in the page. side: guessed for smaller pictures than theirs."""
    total = 0.0
    for record in records:
        scale = 1.0 if side is None else min(1.0, side / max(record["width"], record["height"]))
        # Of each row of a smaller picture there are as many runs, but fewer rows.
        layers = (scale * len(layer["runs"]) + 110 * len(layer["segments"]) for layer in record["layers"] if layer)
        total += scale**2 * len(record["photo"]) + sum(layers)
    return total
