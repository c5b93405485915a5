"""Some runs compared, with all their images: searched by their errors, and displayed one by one."""

import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument, BadDataset, BadRun, PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.errors import CAUSES
from panbench.metrics.slices import SLICINGS
from panbench.panoptic.image_ids import own_id
from panbench.report.answers import views
from panbench.report.figures.pictures import Pictures, RunPictures
from panbench.report.pages.live.errors import ErrorSearch
from panbench.report.pages.live.queries import ORDERS, ErrorQuery, Query, refuse_unknown_index
from panbench.report.pages.page.document import PHOTO_SIZES, live_page
from panbench.report.pages.page.leads import confused_pixels, find_leads, images_only_one_finds
from panbench.report.pages.page.packing import Examples
from panbench.runs import Run

SIDE, QUALITY = 264, 55
"""Longest side of a thumbnail in pixels (twice its size on the page, for dense screens), and its JPEG quality."""

KEPT = 2000
"""Number of thumbnails cached in memory, about 10 kB each."""


class Selection:
    """Some runs of the server, compared on the images they have in common. Thread-safe.

    Raises as `compared`.
    """

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
        """Compares the runs. root: no picture of a run is read through a link that leads out of this folder."""
        reporter.status("Comparing runs")
        self.members, self.standing = views.compared(
            views.best_first(runs, reporter), common_images=common_images, reporter=reporter
        )
        reporter.status("Looking at single images")
        self.per_image = views.per_image(self.members)
        pq = self.per_image.pivot(index="image_id", columns="run", values="PQ")
        self._pq = pq[[member.label for member in self.members]]
        self._examples = Examples(self.members, Pictures(runs[0], images=images, gt=gt, gt_dir=gt_dir))
        self._thumbnail = lru_cache(KEPT)(self._make_thumbnail)
        self._errors = ErrorSearch(self._examples, self._refuse_linked_pngs)
        # One image is read at a time: files on disk, and tables that are computed on first use.
        self._lock = threading.Lock()
        self._root = None if root is None else root.resolve()
        self._page: tuple[str, str, str] | None = None

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Returns the ids of all images, ascending."""
        return tuple(int(image) for image in self._pq.index)

    def page(self, api: str, home: str, reporter: Reporter = SILENT) -> str:
        """Returns the report's HTML, which requests examples from the URL `api`; `home` links to the list of runs."""
        with self._lock:
            if self._page is None or self._page[:2] != (api, home):
                self._page = api, home, self._make_page(api, home, reporter)
            return self._page[2]

    def _make_page(self, api: str, home: str, reporter: Reporter) -> str:
        """Makes the report's page, with the causes, categories, slices and orders that its search offers."""
        reporter.status("Looking for images that are worth a look")
        kinds = find_leads(self.members, self.per_image)
        reporter.status("Naming causes and slices")
        causes = set(self._segment_verdicts["cause"])
        live = {
            "api": api,
            "home": home,
            "pictures": [source is not None for source in self._examples.sources],
            "causes": [cause.name for cause in CAUSES if cause.name in causes],
            "categories": sorted(set(self._segment_verdicts["category"].tolist())),
            "slices": [
                [f"{name}:{title}", f"{SLICINGS[name].title}: {title}"]
                for name, statistics in self._images_by_slice.items()
                for title in statistics
            ],
            "orders": [[key, title] for key, title in ORDERS.items() if key != "differ" or len(self.members) > 1],
        }
        reporter.status("Writing the page")
        examples = self._examples
        return live_page(self.members, self.standing, self.per_image, kinds, live, examples.missing, examples.commands)

    def find(self, query: Query) -> list[int]:
        """Returns the ids of the images that match a query, in its order. Raises BadArgument for unknown words."""
        with self._lock:
            requested = pd.Series(True, index=self._pq.index)
            for images in self._images_by_condition(query):
                requested &= requested.index.isin(images)
        pq = self._pq[requested]
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
        """Returns as JSON a page of the images that match a query, with thumbnails.

        Keys: total, images (ids), examples (thumbnails), faults.
        Each image displays the requested model's prediction, or else that of the model with the lowest PQ on it.
        """
        found = self.find(query)
        listed = found[query.offset : query.offset + query.limit]
        examples: list[dict[str, Any]] = []
        with self._lock:
            sources = self._examples.sources
            models = self._models_in_thumbnails(listed, query.model) if any(sources) else {}
            faults = list(self._examples.missing) if listed and not models else []
            for model in set(models.values()):
                # All at once, much faster than one by one.
                cast(RunPictures, sources[model]).judge(image for image in listed if models[image] == model)
            for number, (image, model) in enumerate(models.items()):
                reporter.progress("Examples", number, len(listed))
                try:
                    examples.append(self._thumbnail(image, model))
                except PanbenchError as problem:
                    faults.append(str(problem))
        return {"total": len(found), "images": listed, "examples": examples, "faults": list(dict.fromkeys(faults))}

    def _make_thumbnail(self, image: int, model: int) -> dict[str, Any]:
        """Returns an image's thumbnail as JSON: a small photograph with the ground truth and one model's prediction."""
        self._refuse_linked_pngs(image)
        return {**self._examples.example(image, SIDE, QUALITY, only=model), "part": True}

    def errors(self, query: ErrorQuery, reporter: Reporter = SILENT) -> dict[str, Any]:
        """Returns as JSON a page of the errors that match a query, with their pictures: as `ErrorSearch.answer`."""
        with self._lock:
            images = self._images_of_slice(query.slice) if query.slice else None
            return self._errors.answer(query, images, reporter)

    def _models_in_thumbnails(self, images: Sequence[int], requested: int | None) -> dict[int, int]:
        """Returns for each image the index of the model in its thumbnail, among the models with pictures."""
        pictured = [index for index, source in enumerate(self._examples.sources) if source is not None]
        if requested in pictured:
            return dict.fromkeys(images, requested)
        scores = self._pq.loc[list(images)].to_numpy()[:, pictured]
        worst = np.where(np.isnan(scores), 1.0, scores).argmin(axis=1)
        return {image: pictured[index] for image, index in zip(images, worst, strict=True)}

    def example(self, image_id: int) -> dict[str, Any]:
        """Returns the gallery's record of one image. Raises BadArgument if the runs lack it, BadDataset, BadRun."""
        if image_id not in self.members[0].totals.images:
            raise BadArgument(f"These runs have no image {own_id(image_id)}.")
        with self._lock:
            if not any(self._examples.sources):
                raise BadDataset(" ".join(self._examples.missing))
            self._refuse_linked_pngs(image_id)
            return self._examples.example(image_id, *PHOTO_SIZES[0])

    def _refuse_linked_pngs(self, image_id: int) -> None:
        """Raises BadRun for a PNG in a run's own folder that is a link to something outside of `root`."""
        for source in filter(None, self._examples.sources):
            path = source.png_path(image_id, self._examples.pictures)
            home = source.run.path
            if self._root is None or home is None or not path.is_relative_to(home):
                continue  # predictions that were scored without being copied
            if not path.resolve().is_relative_to(self._root):
                raise BadRun(
                    f"{source.run.name}: {path.name} is a link that leads out of the folder and is not served."
                )

    def _images_by_condition(self, query: Query) -> list[Any]:
        """Returns for each condition of a query the ids of the images that meet it."""
        refuse_unknown_index("category", query.category, len(self.members[0].categories))
        refuse_unknown_index("model", query.model, len(self.members))
        if query.cause and query.cause not in {cause.name for cause in CAUSES}:
            raise BadArgument(f"There is no cause {query.cause!r}.")
        table = self._segment_verdicts
        for name in ("category", "model", "cause", "verdict"):
            if (value := getattr(query, name)) not in (None, ""):
                table = table[table[name] == value]
        if query.low is not None:
            table = table[table["iou"] >= query.low]
        if query.high is not None:
            table = table[table["iou"] <= query.high]
        conditions = [table["image_id"].to_numpy()] if len(table) < len(self._segment_verdicts) else []
        if query.slice:
            conditions.append(self._images_of_slice(query.slice))
        if query.taken:
            conditions.append(self._images_with_confusion(query.taken))
        if query.only:
            conditions.append(self._images_found_by_one(query.only))
        return conditions

    @cached_property
    def _segment_verdicts(self) -> pd.DataFrame:
        """Returns a row per segment and model: TP, FP or FN (`verdict`), cause of the error, IoU, image and category.

        Columns: model, category (both are indices), image_id, verdict, cause, iou.
        """
        position = {category.id: index for index, category in enumerate(self.members[0].categories)}
        tables = []
        for index, member in enumerate(self.members):
            errors = member.errors
            tables.append(
                pd.DataFrame(
                    {
                        "model": index,
                        "image_id": errors["image_id"],
                        "category": errors["category_id"].map(position),
                        "verdict": errors["verdict"],
                        "cause": errors["cause"],
                        "iou": errors["iou"].astype(float),
                    }
                )
            )
        return pd.concat(tables, ignore_index=True)

    def _images_of_slice(self, slice: str) -> Any:
        """Returns the ids of images with an error in a slice, "SLICING:SLICE". Raises BadArgument."""
        name, _, title = slice.partition(":")
        if title not in self._images_by_slice.get(name, {}):
            raise BadArgument(f"There is no slice {slice!r}.")
        return self._images_by_slice[name][title]

    @cached_property
    def _images_by_slice(self) -> dict[str, dict[str, Any]]:
        """Returns the ids of the images with an error in each slice (such as small), by slicing (such as size)."""
        found: dict[str, dict[str, Any]] = {}
        for name in SLICINGS:
            own = found.setdefault(name, {})
            for statistics in (member.sliced[name] for member in self.members):
                table = statistics.table[(statistics.table["FP"] + statistics.table["FN"]) > 0]
                for index, title in enumerate(statistics.slices):
                    images = table.loc[table["slice"] == index, "image_id"].to_numpy()
                    own[title] = np.union1d(own.get(title, images), images)
        return {name: own for name, own in found.items() if len(own) > 1}

    def _images_with_confusion(self, taken: str) -> Any:
        """Returns the ids of images where pixels of one category are predicted as another, "TRUE:PREDICTED"."""
        n = len(self.members[0].categories)
        try:
            true, predicted = (int(part) for part in taken.split(":"))
        except ValueError:
            true = predicted = n
        if max(true, predicted) >= n:
            raise BadArgument(f"taken={taken!r} does not name two categories.")
        image, own, other, _ = self._confused_pixels
        return image[(own == true) & (other == (predicted if predicted >= 0 else n))]

    def _images_found_by_one(self, only: str) -> Any:
        """Returns the ids of images in which model A finds a segment that model B misses.

        only: the indices of the two models, as "A:B". Raises BadArgument.
        """
        for a, b, alone in self._images_only_one_finds:
            if only == f"{a}:{b}":
                return alone.index.to_numpy()
        raise BadArgument(f"only={only!r} names no two models.")

    @cached_property
    def _images_only_one_finds(self) -> list[tuple[int, int, pd.Series]]:
        """Returns for each pair of models (a, b) the images in which a finds a segment that b does not."""
        return list(images_only_one_finds(self.members))

    @cached_property
    def _confused_pixels(self) -> list[Any]:
        """Returns the pixels of one category that a model predicts as another: image, categories, pixel count.

        Columns as of `confused_pixels`: image id, true category, predicted category, pixels.
        """
        return [np.concatenate(column) for column in zip(*map(confused_pixels, self.members), strict=True)]
