"""Lists how a run departs from the evaluation behind a published PQ, such as by other weights, images or precision.

All of it is recorded in run.json: facts about the run, not guesses at why a number differs.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from panbench.base.computing import REDUCED
from panbench.base.files import hash_in_name, sha256_of
from panbench.catalog import ModelSpec
from panbench.runs import RunInfo
from panbench.runs.comparable import views
from panbench.runs.definitions import current_definitions, definitions_in_words, stored_definitions
from panbench.weights import weights_here

# Settings in `arguments` that are reported below or do not influence PQ.
_REPORTED = frozenset(
    "config_sha256 weights_sha256 dataset_fingerprint images_sha256 device precision compiled seed rule exif tta "
    "linear corruption candidates category_map category_map_sha256 skip_bad_images save_predictions metrics ap_gt "
    "ap_gt_sha256 batch_size definitions processor_size processor_size_used".split()
)


def departures(info: RunInfo, spec: ModelSpec) -> Iterator[str]:
    """Yields a sentence per departure from the model's published evaluation, the most important first."""
    arguments = info.arguments
    yield from _weight_departures(info, spec)
    if info.category_map is not None:
        yield f"Categories were mapped by {info.category_map.name}: those without a counterpart score 0."
    if corruption := arguments.get("corruption"):
        yield f"The images were corrupted ({corruption})."
    if run_views := views(info):
        yield f"Test-time augmentation was on ({run_views}): the claim is of one view of each image."
    if info.rule is not None and not info.rule.default:
        yield f"The fusion rule was {info.rule}, which is not the model's own."
    if arguments.get("processor_size_used"):
        yield f"Images were stretched to {arguments['processor_size']}, as the model's own image processor does."
    if candidates := arguments.get("candidates"):
        yield f"The network was not run: its stored candidates in {candidates} were fused."
    yield from _image_departures(info)
    if info.precision in REDUCED:
        yield f"The precision was {info.precision}; the claim is of fp32."
    if arguments.get("compiled"):
        yield "The backbone was compiled (--precision with +compile), which rounds differently."
    if arguments.get("exif") == "ignore":
        yield "Photographs were read as stored (--exif ignore), not rotated by their EXIF."
    if (versions := stored_definitions(info)) != current_definitions(info.model, arguments):
        yield f"It was made by definitions of panbench that changed since: {definitions_in_words(versions)}."
    for name, value in arguments.items():
        if name not in _REPORTED and value not in (None, False, ""):
            yield f"The setting {name} was {value}."


def _image_departures(info: RunInfo) -> Iterator[str]:
    """Yields a sentence if images are missing from the score."""
    skipped, missing = info.images.skipped, info.images.missing
    if skipped or missing:
        yield f"Images are missing from the score: {skipped:,} skipped, {missing:,} not scored."


def _weight_departures(info: RunInfo, spec: ModelSpec) -> Iterator[str]:
    """Yields a sentence if the weights are random, or not the catalogue's."""
    model = info.model
    assert model is not None
    if model.random_weights:
        yield "The weights are random: nothing was trained."
        return
    expected = _catalogue_sha256(spec)
    if expected is not None and model.weights_sha256 is not None:
        if not model.weights_sha256.startswith(expected):
            yield (
                f"The weights are not those of the catalogue: their SHA-256 begins with {model.weights_sha256[:8]}, "
                f"that of the published ones with {expected[:8]}."
            )
    elif model.published is None and spec.published is not None and not _was_altered(info.arguments, info):
        yield "The weights are not those of the catalogue (--checkpoint was given)."


def _was_altered(arguments: Mapping[str, Any], info: RunInfo) -> bool:
    """Returns True if a run changed images, decoder layer or categories, so that no published PQ applies."""
    altered = any(arguments.get(name) for name in ("corruption", "layer", "size"))
    return views(info) is not None or altered or info.category_map is not None


def _catalogue_sha256(spec: ModelSpec) -> str | None:
    """Returns the SHA-256 of the catalogue's weights, or its first digits from the file name; None if unknown."""
    if spec.weights is None:
        return None
    if named := hash_in_name(spec.weights):
        return named
    path = weights_here(spec)
    return None if path is None else _cached_sha256(path, path.stat().st_mtime_ns)


@cache
def _cached_sha256(path: Path, _changed: int) -> str:
    """Hashes a file, and again only if its modification time has changed."""
    return sha256_of(path)
