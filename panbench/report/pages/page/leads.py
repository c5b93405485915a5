"""Chooses the example images: a click on a row, cell or point of the page leads to a picture that illustrates it.

A lead is a statement of the page ("an image in which a person is taken for a bicycle") with the images that illustrate
it, best first. `choose_gallery_images` selects few images that illustrate as many leads as possible.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations, zip_longest

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.errors import CAUSES, IMPERFECT_MASK, IS_FP, IS_TP, VERDICT_NAMES, codes, worst_images
from panbench.metrics.fixes import in_cell
from panbench.metrics.matched import numbered, positions
from panbench.metrics.slices import SLICINGS, ImageSlices
from panbench.report.answers import views
from panbench.report.answers.views import Compared

Int = npt.NDArray[np.int64]

MOST_CONFUSED = 25
CANDIDATES = 12

DEAR = 6
"""Number of rows of what to fix first, and of a model's costliest errors, that need an image."""

MOST_MODELS = 50
"""Maximum number of models of which the page shows what only one finds: numbers hold this many bits exactly."""


@dataclass(frozen=True)
class Lead:
    """A statement on the page, and the images that illustrate it. `key` is how the scripts request its images."""

    key: str
    images: tuple[int, ...]


def pairs_listed(members: int) -> int:
    """Returns how many images the page lists for each pair of models; the more pairs, the fewer images."""
    pairs = members * (members - 1) // 2
    return 12 if pairs <= 1 else 8 if pairs <= 3 else 5 if pairs <= 10 else 2


def find_leads(
    members: Sequence[Compared], per_image: pd.DataFrame, slices: Sequence[ImageSlices] = ()
) -> list[list[Lead]]:
    """Returns the page's leads: statements that link to example images, such as "person taken for bicycle".

    There is a list for each kind of statement, the most important lead first.

    slices: the user's own
    """
    pq = per_image.pivot(index="image_id", columns="run", values="PQ")
    known = pq.dropna(how="any")
    mean = known.mean(axis=1)
    typical = (mean - mean.median()).abs().sort_values(kind="stable").index
    kinds = [
        [Lead(f"worst:{image}", (image,)) for image in _image_ids(mean.sort_values(kind="stable").index[:12])],
        list(_worst_images_by_model(members, pq)),
        list(_disagreement_leads(members, known)),
        list(_only_one_finds_leads(members)),
        list(_cause_leads(members)),
        list(_fix_leads(members)),
        [Lead(f"typical:{image}", (image,)) for image in _image_ids(typical[:6])],
        [*_own_slice_leads(per_image, slices), *_slice_leads(members)],
        list(_confusion_leads(members)),
        list(_category_leads(members)),
    ]
    return [kind for kind in kinds if kind]


def choose_gallery_images(kinds: Sequence[Sequence[Lead]], number: int, requested: Sequence[int] = ()) -> list[int]:
    """Returns the ids of at most `number` images for the gallery, `requested` ones before the others.

    Kinds of leads take turns; a lead that a chosen image already illustrates adds no other.
    """
    chosen = dict.fromkeys(map(int, requested))
    for lead in (lead for turn in zip_longest(*kinds) for lead in turn if lead is not None):
        if len(chosen) < number and chosen.keys().isdisjoint(lead.images):
            chosen[lead.images[0]] = None
    return list(chosen)


def displayed_images_by_lead(kinds: Iterable[Sequence[Lead]], images: Iterable[int]) -> dict[str, list[int]]:
    """Returns which images of the page's gallery a click on a table row, cell or point opens, by the key of the click.

    Leads without an image in the gallery are left out.
    """
    known = set(images)
    unused = ("worst:", "typical:", "differ:", "fix:", "cause:")
    found = {lead.key: [image for image in lead.images if image in known] for kind in kinds for lead in kind}
    return {key: ids for key, ids in found.items() if ids and not key.startswith(unused)}


def confused_pairs(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns each run's largest confusions of pixels: true, predicted, and a column of shares per run."""
    shares = views.confusion(members)
    return _largest_confusions(members, shares[shares["true"] != shares["predicted"]], "share")


def mistaken_pairs(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns each run's most frequent wrong categories of segments: true, predicted, and a count per run."""
    return _largest_confusions(members, views.mistaken_objects(members), "objects")


def _largest_confusions(members: Sequence[Compared], table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Returns the pairs of categories that are among the MOST_CONFUSED largest of any run."""
    wide = table.pivot_table(value, ["true", "predicted"], "run", fill_value=0, sort=False)
    wide = wide.reindex(columns=[member.label for member in members], fill_value=0)
    largest = np.argsort(-wide.to_numpy(), axis=0, kind="stable")[:MOST_CONFUSED]
    return wide.iloc[list(dict.fromkeys(largest.T.ravel().tolist()))].reset_index()


def _worst_images_by_model(members: Sequence[Compared], pq: pd.DataFrame) -> Iterator[Lead]:
    """Yields the three images of lowest PQ of each model; the models take turns."""
    worst = [_image_ids(pq[member.label].dropna().sort_values(kind="stable").index[:3]) for member in members]
    for position in range(3):
        for images in worst:
            if position < len(images):
                yield Lead(f"worst:{images[position]}", (images[position],))


def _disagreement_leads(members: Sequence[Compared], pq: pd.DataFrame) -> Iterator[Lead]:
    """Yields for each pair of models the images whose PQ differs most between the two.

    The first image of each pair comes first, then the second ones.
    """
    pairs = list(combinations([member.label for member in members], 2))
    gaps = [(pq[a] - pq[b]).abs().sort_values(ascending=False, kind="stable") for a, b in pairs]
    for position in range(pairs_listed(len(members))):
        for (a, b), gap in zip(pairs, gaps, strict=True):
            if position < len(gap) and gap.iloc[position] > 0:
                yield Lead(f"differ:{a}:{b}:{position}", (int(gap.index[position]),))


def _only_one_finds_leads(members: Sequence[Compared]) -> Iterator[Lead]:
    """Yields for each ordered pair of models the images with most segments that only the first one finds."""
    for a, b, alone in images_only_one_finds(members):
        if len(alone):
            yield Lead(f"only:{a}:{b}", _image_ids(alone.index)[:CANDIDATES])


def _cause_leads(members: Sequence[Compared]) -> Iterator[Lead]:
    """Yields for each run and cause of error the images where that cause loses most PQ, the costliest cause first."""
    found = []
    for index, member in enumerate(members):
        worst = worst_images(member.errors, member.categories)
        names, images, gains = (worst[name].to_numpy() for name in ("cause", "image_id", "gain"))
        for position, cause in enumerate(CAUSES):
            # The largest gain is first.
            own = np.flatnonzero(names == cause.name)
            if len(own):
                lead = Lead(f"cause:{index}:{position}", _image_ids(images[own])[:CANDIDATES])
                found.append((cause.name == IMPERFECT_MASK.name, -float(gains[own[0]]), lead))
    for _, _, lead in sorted(found, key=lambda item: item[:2]):
        yield lead


def _fix_leads(members: Sequence[Compared]) -> Iterator[Lead]:
    """Yields example images of each model's costliest errors, and of the kinds of error that it should fix first.

    The first of each model come first, then the second ones.
    """
    for position in range(DEAR):
        for index, member in enumerate(members):
            errors, rows = member.priced, member.to_fix
            if position < len(rows):
                row = rows.iloc[position]
                own = errors[in_cell(errors, row["cause"], row["size"])]
                # A sample of the images may lack one.
                if len(own):
                    yield Lead(f"fix:{index}:{position}", _image_ids(own["image_id"].unique()[:CANDIDATES]))
            if position < len(errors):
                yield Lead(f"fix:{index}:error:{position}", (int(errors["image_id"].iloc[position]),))


def _slice_leads(members: Sequence[Compared]) -> Iterator[Lead]:
    """Yields for each slice (such as small segments) the images with most errors in it."""
    for name in SLICINGS:
        statistics = [member.sliced[name] for member in members]
        image, index, errors = (
            np.concatenate(columns)
            for columns in zip(
                *((one.image_id, one.slice, one.sums.FP.astype(np.int64) + one.sums.FN) for one in statistics),
                strict=True,
            )
        )
        for number, worst in _images_with_largest_sums(index, image, errors, CANDIDATES).items():
            title = statistics[0].slices[number]
            yield Lead(f"slice:{name}:{title}", worst)


def _images_with_largest_sums(kind: Int, image: Int, number: Int, most: int) -> dict[int, tuple[int, ...]]:
    """Adds up numbers by group and image; returns for each group the `most` images with the largest sums.

    kind, image, number: of each row, its group's number, image id and addend; groups come in ascending order
    """
    (kinds, images), row = numbered([kind, image])
    sums = np.bincount(row, number, len(kinds))
    order = np.lexsort((images, -sums, kinds))
    starts = np.flatnonzero(np.append(True, kinds[1:] != kinds[:-1])) if len(kinds) else np.zeros(0, np.int64)
    return {
        int(kinds[start]): _image_ids(images[order[start:stop]][:most])
        for start, stop in pairwise([*starts, len(kinds)])
    }


def _own_slice_leads(per_image: pd.DataFrame, slices: Sequence[ImageSlices]) -> Iterator[Lead]:
    """Yields for each of the user's slices the images with most errors."""
    if slices:
        errors = (per_image["FP"] + per_image["FN"]).groupby(per_image["image_id"]).sum()
        worst = errors.sort_values(ascending=False, kind="stable").index
        for chosen in slices:
            for name, images in chosen.images.items():
                if own := _image_ids(image for image in worst if image in images)[:CANDIDATES]:
                    yield Lead(f"slice:own-{chosen.name}:{name}", own)


def _confusion_leads(members: Sequence[Compared]) -> Iterator[Lead]:
    """Yields for each listed pair of categories the images with most confused pixels."""
    position = {category.name: index for index, category in enumerate(members[0].categories)}
    listed = pd.concat([confused_pairs(members), mistaken_pairs(members)])[["true", "predicted"]]
    pairs = [
        (position[true], position.get(predicted, len(position)))
        for true, predicted in listed.drop_duplicates().itertuples(index=False, name=None)
    ]
    columns = len(position) + 1
    requested = np.zeros(len(position) * columns, np.bool_)
    requested[[true * columns + predicted for true, predicted in pairs]] = True
    found = []
    for member in members:
        image, true, predicted, pixels = confused_pixels(member)
        pair = true * columns + predicted
        rows = requested[pair]
        found.append((pair[rows], image[rows], pixels[rows]))
    pair, image, pixels = (np.concatenate(column) for column in zip(*found, strict=True))
    images = _images_with_largest_sums(pair, image, pixels, CANDIDATES)
    for one, other in pairs:
        if own := images.get(one * columns + other):
            yield Lead(f"taken:{one}:{other if other < len(position) else -1}", own)


def confused_pixels(member: Compared) -> tuple[Int, Int, Int, Int]:
    """Returns the pixels of one category predicted as another: columns image id, true, predicted, pixels.

    Categories are indices; the index past the last stands for none.
    """
    matched = member.matched
    # Row -1 stands for pixels without a segment.
    index = np.append(positions(matched.segments.category_id, member.categories), len(member.categories))
    true, predicted = index[matched.gt_row], index[matched.pred_row]
    rows = np.flatnonzero((matched.gt_row >= 0) & (true != predicted))
    return matched.overlaps.image_id[rows], true[rows], predicted[rows], matched.overlaps.pixels[rows]


def _category_leads(members: Sequence[Compared]) -> Iterator[Lead]:
    """Yields for each category, worst first, the images with most errors in it, else any that contains it."""
    columns = []
    for member in members:
        errors = member.errors
        wrong = codes(errors["verdict"], VERDICT_NAMES) != IS_TP
        columns.append((errors["category_id"].to_numpy(np.int64), errors["image_id"].to_numpy(np.int64), wrong))
    category_id, image, wrong = (np.concatenate(column) for column in zip(*columns, strict=True))
    images = _images_with_largest_sums(category_id, image, wrong, 4 * CANDIDATES)
    ids, row = np.unique(category_id, return_inverse=True)
    worst = ids[np.argsort(-np.bincount(row, wrong, len(ids)), kind="stable")]
    indices = {category.id: index for index, category in enumerate(members[0].categories)}
    for number in worst.tolist():
        yield Lead(f"category:{indices[number]}", images[number])


def _image_ids(values: Iterable[float]) -> tuple[int, ...]:
    """Returns image ids as integers."""
    return tuple(int(value) for value in values)


def images_only_one_finds(members: Sequence[Compared]) -> Iterator[tuple[int, int, pd.Series]]:
    """Yields for each ordered pair (a, b) the number of segments per image that a finds and b misses."""
    if not 1 < len(members) <= MOST_MODELS:
        return
    found = models_that_found(members)
    image_id, models = found["image_id"].to_numpy(), found["models"].to_numpy()
    for a, b in permutations(range(len(members)), 2):
        alone = image_id[(models & 1 << a > 0) & (models & 1 << b == 0)]
        images, counts = np.unique(alone, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        yield a, b, pd.Series(counts[order], pd.Index(images[order], name="image_id"))


def models_that_found(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns a row per true segment: image_id, gt_id, and models, whose k-th bit says that model k found it."""
    images, segments, bits = [], [], []
    for index, member in enumerate(members):
        errors = member.errors
        verdict = codes(errors["verdict"], VERDICT_NAMES)
        true = verdict != IS_FP
        images.append(errors["image_id"].to_numpy(np.int64)[true])
        segments.append(errors["gt_id"].to_numpy(np.int64)[true])
        bits.append(np.where(verdict[true] == IS_TP, 1 << index, 0))
    (image_id, gt_id), row = numbered([np.concatenate(images), np.concatenate(segments)])
    # Sums below 2^50 are exact in the float64 of bincount.
    models = np.bincount(row, np.concatenate(bits), len(image_id)).astype(np.int64)
    return pd.DataFrame({"image_id": image_id, "gt_id": gt_id, "models": models})
