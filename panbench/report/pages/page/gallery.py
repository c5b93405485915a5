"""The examples of the page: which images are worth a look and why, and their pictures packed for the scripts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panbench.base.reporter import SILENT, Reporter
from panbench.report.answers.remaking import command_with_predictions
from panbench.report.answers.views import Compared
from panbench.report.figures.cutting import PricedError
from panbench.report.figures.pictures import Pictures, RunPictures
from panbench.report.pages.page.packing import Packer, PackingQueue, Wanted

__all__ = ["EXAMPLES", "Examples", "Gallery", "PagePictures"]

EXAMPLES = 96
"""At most so many images are chosen; fewer where fewer show all that the page lists."""

FEW = 16
"""By so many images the size of all is judged first."""

CHECKED = (4, FEW)
"""After so many it is judged whether all have room."""


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


class PagePictures:
    """The pictures of a page, given to a queue in good time: examples with ground truth and all predictions, and crops.

    chosen: the reasons of each example; errors: (place of its run, error) of the crops
    sizes: longest side and JPEG quality, of which the first is taken whose pictures have room, judged by the first few
    """

    def __init__(
        self,
        examples: Examples,
        queue: PackingQueue,
        chosen: Mapping[int, Sequence[str]],
        errors: Sequence[tuple[int, PricedError]],
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        self._examples, self._queue, self._chosen, self._sizes = examples, queue, chosen, tuple(sizes)
        self._errors: dict[int, list[tuple[int, PricedError]]] = {}
        for one in errors:
            self._errors.setdefault(one[1].image_id, []).append(one)
        self.exist = any(examples.sources) and bool(chosen or errors) and not queue.problem()

    def begin(self) -> None:
        """Gives what is wanted at any size: the first few of them, and images for crops alone."""
        if self.exist:
            self._queue.judge(dict.fromkeys([*self._chosen, *self._errors]))
            self._give(list(self._chosen)[:FEW], self._sizes[0])
            self._queue.give(Wanted(one, tuple(own)) for one, own in self._errors.items() if one not in self._chosen)

    def go_on(self, room: int) -> None:
        """Gives the other examples, at the size at which all of them seem to have room; `gallery` has the last word."""
        if self.exist:
            found = [self._queue.example(image, *self._sizes[0]) for image in list(self._chosen)[:FEW]]
            records = [record for record in found if not isinstance(record, str)]
            guessed = (size for size in self._sizes if self._fit(records, room, size[0]))
            self._give(self._chosen, next(guessed, self._sizes[-1]))

    def gallery(self, room: int, reporter: Reporter = SILENT) -> Gallery:
        """The examples, in `room` bytes, of every run that kept predictions."""
        examples, chosen = self._examples, list(self._chosen)
        if not chosen:
            return Gallery()
        if not any(examples.sources):
            return Gallery((), examples.missing, examples.commands)
        if not self.exist:
            return Gallery((), (self._queue.problem(),))
        for place, size in enumerate(self._sizes):
            records: list[dict[str, Any]] = []
            faults: list[str] = []
            for number, image in enumerate(chosen):
                reporter.progress("Packing examples", number, len(chosen))
                # Not all at once: the size may yet prove too large.
                self._give(chosen[number : number + 1] if number < FEW else chosen, size)
                found = self._queue.example(image, *size)
                if isinstance(found, str):
                    faults.append(found)
                else:
                    records.append(found)
                if len(records) in CHECKED and place + 1 < len(self._sizes) and not self._fit(records, room):
                    break
            else:
                if place + 1 == len(self._sizes) or self._fit(records, room):
                    break
        reporter.progress("Packing examples", len(chosen), len(chosen))
        missing = []
        if faults:
            missing.append(f"{len(faults)} of {len(chosen)} examples are left out; the first: {faults[0]}")
        # Last the sentence that the commands follow.
        return Gallery(tuple(records), (*missing, *examples.missing), examples.commands)

    def _give(self, images: Iterable[int], size: tuple[int, int]) -> None:
        self._queue.give(
            Wanted(image, tuple(self._errors.get(image, ())), tuple(self._chosen[image]), *size) for image in images
        )

    def _fit(self, records: Sequence[Mapping[str, Any]], room: int, side: int | None = None) -> bool:
        """Whether all examples have room if they weigh as much as some; about so much with another longest side."""
        weight = sum(_weight(record, side) for record in records) / max(len(records), 1)
        return weight * len(self._chosen) <= room


def _weight(record: Mapping[str, Any], side: int | None = None) -> float:
    """About how many bytes a record takes in the page. side: guessed for a smaller picture than the record's."""
    scale = 1.0 if side is None else min(1.0, side / max(record["width"], record["height"]))
    # Of each row of a smaller picture there are as many runs, but fewer rows.
    return scale**2 * len(record["photo"]) + sum(
        scale * len(layer["runs"]) + 110 * len(layer["segments"]) for layer in record["layers"] if layer
    )
