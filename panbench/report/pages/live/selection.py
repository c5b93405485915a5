"""Some runs compared, and all their images: found by what went wrong in them, and shown one by one."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.errors import CAUSES
from panbench.metrics.slices import SLICINGS, image_statistics
from panbench.panoptic.image_ids import own_id
from panbench.report.answers import views
from panbench.report.figures.pictures import Pictures
from panbench.report.pages.live.errors import ErrorQuery, Errors
from panbench.report.pages.live.thumbnails import Thumbnails
from panbench.report.pages.live.words import check_bounds, values_of
from panbench.report.pages.page.document import PHOTO_SIZES, live_page
from panbench.report.pages.page.gallery import Examples
from panbench.report.pages.page.leads import find_leads, taken_pixels
from panbench.report.pages.page.only import images_only_one_finds
from panbench.runs import Run

__all__ = ["ORDERS", "VERDICTS", "Query", "Selection"]

VERDICTS = ("FN", "FP", "TP")
ORDERS = {
    "worst": "worst PQ",
    "differ": "largest disagreement",
    "best": "best PQ",
    "id": "image id",
}


@dataclass(frozen=True)
class Query:
    """Which images are asked for. What is None or "" excludes nothing.

    category (its place), cause, verdict, model (its place), low and high (IoU): the image has a segment that fits all
    of these at once; a miss has the IoU that it would have with the segment that its cause pairs it with
    slice: "SLICING:SLICE", the image has an error there; taken: "TRUE:PREDICTED", places of categories, −1 for void:
    pixels of the one are given to the other; only: "A:B", places of models, A finds a segment that B does not
    differ: the best and the worst model are so far apart in PQ, 0–1
    """

    category: int | None = None
    cause: str = ""
    verdict: str = ""
    model: int | None = None
    low: float | None = None
    high: float | None = None
    slice: str = ""
    taken: str = ""
    only: str = ""
    differ: float | None = None
    order: str = "worst"
    offset: int = 0
    limit: int = 24

    @classmethod
    def read(cls, words: Mapping[str, str]) -> "Query":
        """The query that the words of an address ask for. Raises BadArgument naming what is not understood."""
        query = cls(**values_of(cls, words))
        if query.order not in ORDERS:
            raise BadArgument(f"There is no order {query.order!r}. Choose one of {', '.join(ORDERS)}.")
        if query.verdict and query.verdict not in VERDICTS:
            raise BadArgument(f"There is no verdict {query.verdict!r}. Choose one of {', '.join(VERDICTS)}.")
        check_bounds(query.offset, query.limit)
        return query


class Selection:
    """Some runs, compared on the images that all of them hold. Raises as `views.compared`. Threads may share it."""

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        common_images: bool = False,
        images: Path | None = None,
        gt: Path | None = None,
        gt_dir: Path | None = None,
        root: Path | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        """root: no picture of a run is read through a link that leads out of this folder"""
        reporter.status("Comparing runs")
        self.members, self.standing = views.compared(
            views.best_first(runs, reporter), common_images=common_images, reporter=reporter
        )
        reporter.status("Looking at single images")
        self.per_image = views.per_image(self.members)
        pq = self.per_image.pivot(index="image_id", columns="run", values="PQ")
        self._pq = pq[[member.label for member in self.members]]
        self._examples = Examples(self.members, Pictures(runs[0], images=images, gt=gt, gt_dir=gt_dir))
        self._thumbnails = Thumbnails(self._examples, self._refuse_links)
        self._errors = Errors(self._examples, self._refuse_links)
        # One image is read at a time: files on disk and tables that are made when first asked for.
        self._lock = threading.Lock()
        self._root = None if root is None else root.resolve()
        self._page: tuple[str, str, str] | None = None

    @property
    def image_ids(self) -> tuple[int, ...]:
        """All images, in ascending order."""
        return tuple(int(image) for image in self._pq.index)

    def page(self, api: str, home: str, reporter: Reporter = SILENT) -> str:
        """The report's HTML, whose examples are asked for at the address `api`; `home` leads to the list of runs."""
        with self._lock:
            if self._page is None or self._page[:2] != (api, home):
                self._page = api, home, self._made_page(api, home, reporter)
            return self._page[2]

    def _made_page(self, api: str, home: str, reporter: Reporter) -> str:
        reporter.status("Looking for images that are worth a look")
        kinds = find_leads(self.members, self.per_image)
        reporter.status("Naming causes and slices")
        causes = set(self._segments["cause"])
        live = {
            "api": api,
            "home": home,
            "pictures": [source is not None for source in self._examples.sources],
            "causes": [cause.name for cause in CAUSES if cause.name in causes],
            "categories": sorted(set(self._segments["category"].tolist())),
            "slices": [
                [f"{name}:{title}", f"{SLICINGS[name].title}: {title}"]
                for name, statistics in self._slices.items()
                for title in statistics
            ],
            "orders": [[key, title] for key, title in ORDERS.items() if key != "differ" or len(self.members) > 1],
        }
        reporter.status("Writing the page")
        examples = self._examples
        return live_page(self.members, self.standing, self.per_image, kinds, live, examples.missing, examples.commands)

    def find(self, query: Query) -> list[int]:
        """All images that a query asks for, in its order. Raises BadArgument for what these runs lack."""
        with self._lock:
            wanted = pd.Series(True, index=self._pq.index)
            for images in self._wanted(query):
                wanted &= wanted.index.isin(images)
        pq = self._pq[wanted]
        gap = (pq.max(axis=1) - pq.min(axis=1)).fillna(0.0)
        if query.differ is not None:
            pq, gap = pq[gap >= query.differ], gap[gap >= query.differ]
        if query.order == "differ":
            pq = pq.loc[gap.sort_values(ascending=False, kind="stable").index]
        elif query.order in ("worst", "best"):
            mean = pq.mean(axis=1).sort_values(ascending=query.order == "worst", kind="stable", na_position="last")
            pq = pq.loc[mean.index]
        return [int(image) for image in pq.index]

    def answer(self, query: Query, reporter: Reporter = SILENT) -> dict[str, Any]:
        """A page of what a query finds: total, images (ids), examples (thumbnails), faults.

        Of each image the answer of the model that is asked for is shown, else of the one that does worst on it.
        """
        found = self.find(query)
        shown = found[query.offset : query.offset + query.limit]
        with self._lock:
            if any(self._examples.sources):
                examples, faults = self._thumbnails.of(shown, self._models_shown(shown, query.model), reporter)
            else:
                examples, faults = [], list(self._examples.missing) if shown else []
        return {"total": len(found), "images": shown, "examples": examples, "faults": list(dict.fromkeys(faults))}

    def errors(self, query: ErrorQuery, reporter: Reporter = SILENT) -> dict[str, Any]:
        """A page of the errors that a query asks for, cut out of their images: total, all, errors, faults."""
        with self._lock:
            images = self._of_slice(query.slice) if query.slice else None
            return self._errors.answer(query, images, reporter)

    def _models_shown(self, images: Sequence[int], wanted: int | None) -> dict[int, int]:
        """Index of the model that each image's thumbnail shows, among those with pictures."""
        pictured = [place for place, source in enumerate(self._examples.sources) if source is not None]
        if wanted in pictured:
            return dict.fromkeys(images, wanted)
        scores = self._pq.loc[list(images)].to_numpy()[:, pictured]
        worst = np.where(np.isnan(scores), 1.0, scores).argmin(axis=1)
        return {image: pictured[place] for image, place in zip(images, worst, strict=True)}

    def example(self, image_id: int) -> dict[str, Any]:
        """The gallery's record of one image. Raises BadArgument for one that the runs lack, BadDataset, BadRun."""
        of_all = self.members[0].folded
        if image_id not in (self._pq.index if of_all is None else of_all.sample.image_ids):
            raise BadArgument(f"These runs have no image {own_id(image_id)}.")
        with self._lock:
            if not any(self._examples.sources):
                raise BadDataset(" ".join(self._examples.missing))
            self._refuse_links(image_id)
            return self._examples.example(image_id, (), *PHOTO_SIZES[0])

    def _refuse_links(self, image_id: int) -> None:
        """Raises BadRun for a PNG in a run's own folder that is a link to something outside of `root`."""
        for source in filter(None, self._examples.sources):
            path = source.png_path(image_id, self._examples.pictures)
            home = source.run.path
            if self._root is None or home is None or not path.is_relative_to(home):
                continue  # predictions that were scored where they are
            if not path.resolve().is_relative_to(self._root):
                raise BadRun(
                    f"{source.run.name}: {path.name} is a link that leads out of the folder and is not served."
                )

    def _wanted(self, query: Query) -> list[Any]:
        """For each condition of a query the images that meet it."""
        conditions = []
        table = self._segments
        rows = np.ones(len(table), np.bool_)
        if query.category is not None:
            if not 0 <= query.category < len(self.members[0].categories):
                raise BadArgument(f"There is no category {query.category}.")
            rows &= (table["category"] == query.category).to_numpy()
        if query.model is not None:
            if not 0 <= query.model < len(self.members):
                raise BadArgument(f"There is no model {query.model}.")
            rows &= (table["model"] == query.model).to_numpy()
        if query.cause:
            if query.cause not in {cause.name for cause in CAUSES}:
                raise BadArgument(f"There is no cause {query.cause!r}.")
            rows &= (table["cause"] == query.cause).to_numpy()
        if query.verdict:
            rows &= (table["verdict"] == query.verdict).to_numpy()
        if query.low is not None:
            rows &= (table["iou"] >= query.low).to_numpy()
        if query.high is not None:
            rows &= (table["iou"] <= query.high).to_numpy()
        if not rows.all():
            conditions.append(table["image_id"].to_numpy()[rows])
        if query.slice:
            conditions.append(self._of_slice(query.slice))
        if query.taken:
            conditions.append(self._taken_images(query.taken))
        if query.only:
            conditions.append(self._found_by_one(query.only))
        return conditions

    @cached_property
    def _segments(self) -> pd.DataFrame:
        """model, image_id, category (places), verdict, cause, iou: a row a found, missed and false segment."""
        position = {category.id: place for place, category in enumerate(self.members[0].categories)}
        tables = []
        for place, member in enumerate(self.members):
            errors = member.explained.errors
            tables.append(
                pd.DataFrame(
                    {
                        "model": place,
                        "image_id": errors["image_id"],
                        "category": errors["category_id"].map(position),
                        "verdict": errors["verdict"],
                        "cause": errors["cause"],
                        "iou": errors["iou"].astype(float),
                    }
                )
            )
        return pd.concat(tables, ignore_index=True)

    def _of_slice(self, slice: str) -> Any:
        name, _, title = slice.partition(":")
        if title not in self._slices.get(name, {}):
            raise BadArgument(f"There is no slice {slice!r}.")
        return self._slices[name][title]

    @cached_property
    def _slices(self) -> dict[str, dict[str, Any]]:
        """Slicing → slice → images with an error in it."""
        found: dict[str, dict[str, Any]] = {}
        for name in SLICINGS:
            for member in self.members:
                statistics = image_statistics(member.matched, member.categories, name)
                table = statistics.table[(statistics.table["FP"] + statistics.table["FN"]) > 0]
                own = found.setdefault(name, {})
                for place, title in enumerate(statistics.slices):
                    images = table.loc[table["slice"] == place, "image_id"].to_numpy()
                    own[title] = np.union1d(own.get(title, images), images)
        return {name: own for name, own in found.items() if len(own) > 1}

    def _taken_images(self, taken: str) -> Any:
        try:
            true, predicted = (int(part) for part in taken.split(":"))
            names = [self.members[0].categories[true].name] if true >= 0 else ["void"]
            names.append(self.members[0].categories[predicted].name if predicted >= 0 else "void")
        except (ValueError, IndexError):
            raise BadArgument(f"taken={taken!r} does not name two categories.") from None
        table = self._taken
        return table.loc[(table["true"] == names[0]) & (table["predicted"] == names[1]), "image_id"].to_numpy()

    def _found_by_one(self, only: str) -> Any:
        for a, b, alone in self._only:
            if only == f"{a}:{b}":
                return alone.index.to_numpy()
        raise BadArgument(f"only={only!r} names no two models.")

    @cached_property
    def _only(self) -> list[tuple[int, int, pd.Series]]:
        return list(images_only_one_finds(self.members))

    @cached_property
    def _taken(self) -> pd.DataFrame:
        return pd.concat([taken_pixels(member) for member in self.members], ignore_index=True)
