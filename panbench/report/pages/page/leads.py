"""What the page lists and the images that show it: from each row, cell and point a click leads to a picture.

A lead is a promise of the page ("an image in which a person is taken for a bicycle") with the images that keep it, best
first. `choose` takes few images that keep as many promises as possible.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, zip_longest

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.errors import CAUSES, IMPERFECT_MASK, IS_TP, VERDICT_NAMES, codes
from panbench.metrics.fixes import of_cell
from panbench.metrics.image_slices import ImageSlices
from panbench.metrics.matched import numbered, positions
from panbench.metrics.slices import SLICINGS
from panbench.report.answers import views
from panbench.report.answers.views import Compared
from panbench.report.pages.page.only import images_only_one_finds

__all__ = [
    "MOST_CONFUSED",
    "Lead",
    "choose",
    "confused_pairs",
    "find_leads",
    "leads_to",
    "mistaken_pairs",
    "pairs_listed",
    "taken_pixels",
]

Int = npt.NDArray[np.int64]

MOST_CONFUSED = 25
CANDIDATES = 12

DEAR = 6
"""Of so many rows of what to fix first, and of so many of a model's costliest errors, an image is wanted."""


@dataclass(frozen=True)
class Lead:
    """A promise. `key` is how the scripts ask for its images, `reason` what an image says of why it is shown."""

    key: str
    reason: str
    images: tuple[int, ...]


@dataclass
class _Reasons:
    """Which images are shown, in the order in which they were chosen, and why each."""

    of_image: dict[int, list[str]] = field(default_factory=dict)

    def add(self, image_id: int, reason: str) -> None:
        reasons = self.of_image.setdefault(image_id, [])
        if reason not in reasons:
            reasons.append(reason)


def pairs_listed(members: int) -> int:
    """How many images the page lists for a pair of models: fewer where there are more pairs."""
    pairs = members * (members - 1) // 2
    return 12 if pairs <= 1 else 8 if pairs <= 3 else 5 if pairs <= 10 else 2


def find_leads(
    members: Sequence[Compared], per_image: pd.DataFrame, slices: Sequence[ImageSlices] = ()
) -> list[list[Lead]]:
    """All promises of the page, those of one kind in a list, each list with the most important first.

    slices: the user's own
    """
    pq = per_image.pivot(index="image_id", columns="run", values="PQ")
    known = pq.dropna(how="any")
    mean = known.mean(axis=1)
    typical = (mean - mean.median()).abs().sort_values(kind="stable").index
    kinds = [
        [Lead(f"worst:{image}", "lowest PQ", (image,)) for image in _ints(mean.sort_values(kind="stable").index[:12])],
        list(_worst_of_each(members, pq)),
        list(_differing(members, known)),
        list(_only(members)),
        list(_causes(members)),
        list(_to_fix(members)),
        [Lead(f"typical:{image}", "typical", (image,)) for image in _ints(typical[:6])],
        [*_own_slices(per_image, slices), *_slices(members)],
        list(_confusions(members)),
        list(_categories(members)),
    ]
    return [kind for kind in kinds if kind]


def choose(kinds: Sequence[Sequence[Lead]], number: int, wanted: Sequence[int] = ()) -> dict[int, list[str]]:
    """At most `number` images, `wanted` before the others, each with the reasons why it is shown.

    Kinds take turns. A promise that a chosen image already keeps takes no other.
    """
    chosen = _Reasons()
    for image in wanted:
        chosen.add(int(image), "you asked for it")
    turns = [lead for turn in zip_longest(*kinds) for lead in turn if lead is not None]
    for lead in turns:
        kept = next((image for image in lead.images if image in chosen.of_image), None)
        if kept is None and len(chosen.of_image) < number:
            kept = lead.images[0]
        if kept is not None:
            chosen.add(kept, lead.reason)
    return chosen.of_image


def leads_to(kinds: Iterable[Sequence[Lead]], images: Iterable[int]) -> dict[str, list[int]]:
    """For the scripts: of each promise, by its key, the images that are shown; promises without any are left out."""
    shown = set(images)
    unused = ("worst:", "typical:", "differ:", "fix:", "cause:")
    found = {lead.key: [image for image in lead.images if image in shown] for kind in kinds for lead in kind}
    return {key: ids for key, ids in found.items() if ids and not key.startswith(unused)}


def confused_pairs(members: Sequence[Compared]) -> pd.DataFrame:
    """What each run confuses most: true, predicted, and under each run's label the share of the true pixels."""
    categories = members[0].categories
    shares = []
    for member in members:
        pixels = member.confused.to_numpy()
        share = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
        np.fill_diagonal(share, 0.0)
        shares.append(share.ravel())
    # In the order in which runs and their tables have them, as equal shares are listed in it.
    pairs = np.array(list(dict.fromkeys(pair for share in shares for pair in np.flatnonzero(share).tolist())), np.int64)
    names = [*(category.name for category in categories), "void"]
    true, predicted = np.divmod(pairs, len(names))
    index = pd.MultiIndex.from_arrays([[names[one] for one in side.tolist()] for side in (true, predicted)])
    index.names = ["true", "predicted"]
    columns = {member.label: share[pairs] for member, share in zip(members, shares, strict=True)}
    return _largest_of_each(pd.DataFrame(columns, index))


def mistaken_pairs(members: Sequence[Compared]) -> pd.DataFrame:
    """What each run mistakes most, by whole segments: true, predicted, and under each run's label how many."""
    objects = views.mistaken_objects(members)
    wide = objects.pivot_table(index=["true", "predicted"], columns="run", values="objects", fill_value=0, sort=False)
    return _largest_of_each(wide.reindex(columns=[member.label for member in members], fill_value=0))


def _largest_of_each(wide: pd.DataFrame) -> pd.DataFrame:
    """The rows that are among the MOST_CONFUSED largest of any column: each pair of runs finds its largest there."""
    largest = np.argsort(-wide.to_numpy(), axis=0, kind="stable")[:MOST_CONFUSED]
    return wide.iloc[list(dict.fromkeys(largest.T.ravel().tolist()))].reset_index()


def _worst_of_each(members: Sequence[Compared], pq: pd.DataFrame) -> Iterator[Lead]:
    """The three images of lowest PQ of each model, models in turns."""
    worst = [_ints(pq[member.label].dropna().sort_values(kind="stable").index[:3]) for member in members]
    for place in range(3):
        for member, images in zip(members, worst, strict=True):
            if place < len(images):
                yield Lead(f"worst:{images[place]}", f"lowest PQ of {member.label}", (images[place],))


def _differing(members: Sequence[Compared], pq: pd.DataFrame) -> Iterator[Lead]:
    """Images listed for each pair, pairs in turns."""
    pairs = list(combinations([member.label for member in members], 2))
    gaps = [(pq[a] - pq[b]).abs().sort_values(ascending=False, kind="stable") for a, b in pairs]
    for place in range(pairs_listed(len(members))):
        for (a, b), gap in zip(pairs, gaps, strict=True):
            if place < len(gap) and gap.iloc[place] > 0:
                reason = "models differ most" if len(pairs) == 1 else f"{a} and {b} differ most"
                yield Lead(f"differ:{a}:{b}:{place}", reason, (int(gap.index[place]),))


def _only(members: Sequence[Compared]) -> Iterator[Lead]:
    """For each ordered pair of models, the images in which the first alone finds most."""
    for a, b, alone in images_only_one_finds(members):
        if len(alone):
            reason = f"found by {members[a].label} and not by {members[b].label}"
            yield Lead(f"only:{a}:{b}", reason, _ints(alone.index)[:CANDIDATES])


def _causes(members: Sequence[Compared]) -> Iterator[Lead]:
    """The images that each cause costs most, of each run, the costliest first."""
    found = []
    for index, member in enumerate(members):
        worst = member.explained.worst
        names, images, gains = (worst[name].to_numpy() for name in ("cause", "image_id", "gain"))
        for place, cause in enumerate(CAUSES):
            # The greatest gain is first.
            own = np.flatnonzero(names == cause.name)
            if len(own):
                reason = f"costly: {cause.name}"
                lead = Lead(f"cause:{index}:{place}", reason, _ints(images[own])[:CANDIDATES])
                found.append((cause.name == IMPERFECT_MASK.name, -float(gains[own[0]]), lead))
    for _, _, lead in sorted(found, key=lambda item: item[:2]):
        yield lead


def _to_fix(members: Sequence[Compared]) -> Iterator[Lead]:
    """The images of the costliest errors of what to fix first, and of the costliest errors of all, models in turns."""
    for place in range(DEAR):
        for index, member in enumerate(members):
            errors, rows = member.priced, member.to_fix
            if place < len(rows):
                row = rows.iloc[place]
                own = errors[of_cell(errors, row["cause"], row["size"])]
                reason = f"to fix first: {row['cause']}, {row['size']}"
                # A sample of the images need not have one.
                if len(own):
                    yield Lead(f"fix:{index}:{place}", reason, _ints(own["image_id"].unique()[:CANDIDATES]))
            if place < len(errors):
                yield Lead(f"fix:{index}:error:{place}", "a costly error", (int(errors["image_id"].iloc[place]),))


def _slices(members: Sequence[Compared]) -> Iterator[Lead]:
    """For each slice, the images with most errors in it."""
    for name, slicing in SLICINGS.items():
        statistics = [member.sliced[name] for member in members]
        image, place, errors = (
            np.concatenate(columns)
            for columns in zip(
                *((one.image_id, one.slice, one.sums.FP.astype(np.int64) + one.sums.FN) for one in statistics),
                strict=True,
            )
        )
        for number, worst in _most(place, image, errors, CANDIDATES).items():
            title = statistics[0].slices[number]
            yield Lead(f"slice:{name}:{title}", f"{slicing.title}: {title}", worst)


def _most(kind: Int, image: Int, number: Int, most: int) -> dict[int, tuple[int, ...]]:
    """Of each kind, ascending, at most so many images: those with the largest sums of `number`, then by id."""
    (kinds, images), row = numbered([kind, image])
    sums = np.bincount(row, number, len(kinds))
    order = np.lexsort((images, -sums, kinds))
    starts = np.flatnonzero(np.append(True, kinds[1:] != kinds[:-1])) if len(kinds) else np.zeros(0, np.int64)
    return {
        int(kinds[start]): _ints(images[order[start:stop]][:most]) for start, stop in pairwise([*starts, len(kinds)])
    }


def _own_slices(per_image: pd.DataFrame, slices: Sequence[ImageSlices]) -> Iterator[Lead]:
    """For each of the user's slices, the images with most errors."""
    if slices:
        errors = (per_image["FP"] + per_image["FN"]).groupby(per_image["image_id"]).sum()
        worst = errors.sort_values(ascending=False, kind="stable").index
        for chosen in slices:
            for name, images in chosen.images.items():
                if own := _ints(image for image in worst if image in images)[:CANDIDATES]:
                    yield Lead(f"slice:own-{chosen.name}:{name}", f"{chosen.name}: {name}", own)


def _confusions(members: Sequence[Compared]) -> Iterator[Lead]:
    """For each listed pair of categories, the images with most confused pixels."""
    position = {category.name: index for index, category in enumerate(members[0].categories)}
    listed = pd.concat([confused_pairs(members), mistaken_pairs(members)])[["true", "predicted"]]
    pairs = {
        (position[true], position.get(predicted, len(position))): f"{true} taken for {predicted}"
        for true, predicted in listed.itertuples(index=False, name=None)
    }
    columns = len(position) + 1
    wanted = np.zeros(len(position) * columns, np.bool_)
    wanted[[true * columns + predicted for true, predicted in pairs]] = True
    found = []
    for member in members:
        image, true, predicted, pixels = taken(member)
        pair = true * columns + predicted
        rows = wanted[pair]
        found.append((pair[rows], image[rows], pixels[rows]))
    pair, image, pixels = (np.concatenate(column) for column in zip(*found, strict=True))
    images = _most(pair, image, pixels, CANDIDATES)
    for (one, other), reason in pairs.items():
        if own := images.get(one * columns + other):
            yield Lead(f"taken:{one}:{other if other < len(position) else -1}", reason, own)


def taken(member: Compared) -> tuple[Int, Int, Int, Int]:
    """Columns image id, true and predicted category (places; past the last for none), pixels: a row an overlap of two
    categories."""
    matched = member.matched
    # Row -1 is a pixel that no segment has.
    place = np.append(positions(matched.segments.category_id, member.categories), len(member.categories))
    true, predicted = place[matched.gt_row], place[matched.pred_row]
    rows = np.flatnonzero((matched.gt_row >= 0) & (true != predicted))
    return matched.overlaps.image_id[rows], true[rows], predicted[rows], matched.overlaps.pixels[rows]


def taken_pixels(member: Compared) -> pd.DataFrame:
    """image_id, true, predicted (names; "void" for none), pixels, one row an overlap of two categories."""
    image, true, predicted, pixels = taken(member)
    names = np.array([*(category.name for category in member.categories), "void"], object)
    return pd.DataFrame({"image_id": image, "true": names[true], "predicted": names[predicted], "pixels": pixels})


def _categories(members: Sequence[Compared]) -> Iterator[Lead]:
    """For each category, the images with most errors in it, else any that holds it; worst category first."""
    columns = []
    for member in members:
        errors = member.explained.errors
        wrong = codes(errors["verdict"], VERDICT_NAMES) != IS_TP
        columns.append((errors["category_id"].to_numpy(np.int64), errors["image_id"].to_numpy(np.int64), wrong))
    category_id, image, wrong = (np.concatenate(column) for column in zip(*columns, strict=True))
    images = _most(category_id, image, wrong, 4 * CANDIDATES)
    ids, row = np.unique(category_id, return_inverse=True)
    worst = ids[np.argsort(-np.bincount(row, wrong, len(ids)), kind="stable")]
    categories = {category.id: (place, category.name) for place, category in enumerate(members[0].categories)}
    for number in worst.tolist():
        place, name = categories[number]
        yield Lead(f"category:{place}", name, images[number])


def _ints(values: Iterable[float]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
