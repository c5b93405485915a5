"""Prints how far each family's network and map are from what its authors' own code answered, as a table.

    python scripts/check/compare_models.py
    python scripts/check/compare_models.py --reference DIR   # the whole recorded set, other_models/ and fusion_rules/

Without DIR the recorded answers in tests/reference are used, which hold one small model for each of three families.
Networks: the largest difference of any logit. Maps: the pixels whose class or segment differs, of all pixels.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from panbench.catalog import ModelSpec, find_model  # noqa: E402
from panbench.datasets.convert import shipped_categories  # noqa: E402
from panbench.models.candidates import Candidates, Frame  # noqa: E402
from panbench.models.host import HostedModel  # noqa: E402
from panbench.models.labels import coco_labels  # noqa: E402
from panbench.models.opening import open_model  # noqa: E402
from panbench.models.rules import fuse, parse_rule  # noqa: E402
from panbench.models.transformers.families import fit_into_square  # noqa: E402
from panbench.studies.fusing.arrays import fuse_arrays, read_arrays  # noqa: E402
from scripts.make.markdown_tables import table  # noqa: E402
from tests.models import recorded as reference  # noqa: E402

Row = tuple[str, str, float, str]

LABELS = str(reference.FOLDER / "eomt" / "categories.json")
"""Of the recorded networks of transformers."""


def largest(pairs: Sequence[tuple[torch.Tensor, npt.NDArray[Any]]]) -> float:
    """Returns the largest difference between tensors and recorded arrays."""
    return max(float((ours - torch.from_numpy(np.asarray(theirs))).abs().max()) for ours, theirs in pairs)


def differing(
    ids: npt.NDArray[np.int32], labels: Mapping[int, int], theirs: npt.NDArray[Any], their_labels: Mapping[int, int]
) -> str:
    """Returns the share of pixels whose label or segment differs (segments match by mutual majority of pixels)."""
    pairs, counts = np.unique(np.stack([ids.ravel(), theirs.ravel()]), axis=1, return_counts=True)
    best = dict(pairs.T[counts.argsort(kind="stable")].tolist())  # the last one of a segment has most pixels
    same = sum(
        count
        for (ours, other), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
        if best[ours] == other and labels.get(ours, -1) == their_labels.get(other, -1)
    )
    return f"{ids.size - same} of {ids.size:,}"


def panoptic_segformer() -> Row:
    """Compares our network from the neck on, and our merging, with the authors'."""
    recorded, module = reference.recorded("panoptic_segformer"), reference.segformer_of()
    h, w, oh, ow, *_ = (int(side) for side in recorded["meta"])
    outputs = module.transform(reference.features_of(recorded), (h, w), [(h, w)])
    labels, scores, masks, _ = module.select_candidates(outputs, 0)
    apart = largest(
        [
            (outputs.thing_logits, recorded["cls_logits"]),
            (outputs.boxes, recorded["boxes"]),
            (masks[:100:5].flatten(1), recorded["things_masks_every_5th"]),
            (masks[100::5].flatten(1), recorded["stuff_masks_every_5th"]),
        ]
    )
    _, isthing = coco_labels()
    frame = Frame((h, w), (h, w), (oh, ow))
    found = Candidates(labels.numpy(), scores.numpy(), scores, masks, frame, isthing, "identity")
    rule = parse_rule("mask-wise")
    ids, segments = rule.to_segments(fuse([found], rule)[0])
    ordered = sorted(shipped_categories("coco"), key=lambda category: (not category.isthing, category.id))
    label_of = {category.id: label for label, category in enumerate(ordered)}
    theirs = recorded["category"].astype(np.int64) * 1000 + recorded["instance"]
    their_labels = {int(each): label_of[int(each) // 1000] for each in np.unique(theirs) if each}
    pixels = differing(ids, {each.id: each.label for each in segments}, theirs, their_labels)
    return "Panoptic SegFormer", "zhiqi-li/Panoptic-SegFormer", apart, pixels


def mask_dino() -> Row:
    """Compares our head with the authors'; its map was not recorded, so the rule is compared on other inputs."""
    recorded = reference.recorded("mask_dino")
    classes, masks, boxes = reference.mask_dino_of()(reference.features_of(recorded))
    apart = largest(
        [
            (classes, recorded["class_logits"]),
            (masks[..., ::2, ::2], recorded["mask_logits_every_2nd"]),
            (boxes, recorded["boxes"]),
        ]
    )
    return "Mask DINO", "IDEA-Research/MaskDINO", apart, "–"


def transformers_row(title: str, folder: Path) -> Row:
    """Compares our output for a folder saved by transformers with its own, at threshold 0.5 and overlap 0.25."""
    spec: ModelSpec = find_model(str(folder.resolve()))
    spec = dataclasses.replace(spec, settings={**spec.settings, "labels": LABELS})
    model = open_model(spec, device="cpu")
    assert isinstance(model, HostedModel)
    recorded = dict(np.load(folder / "reference.npz"))
    pixels = torch.from_numpy(recorded["pixel_values"])
    found = model.module(pixel_values=pixels)
    apart = largest(
        [(found.class_queries_logits, recorded["class_logits"]), (found.masks_queries_logits, recorded["mask_logits"])]
    )
    if not model.adapter.kind.square:  # type: ignore[attr-defined]
        # Its recorded maps went through a fixed 384×384 and keep their padding: the rule `transformers`.
        return title, "transformers 5.23.0", apart, "–"
    target = np.atleast_2d(recorded["target_size" if "target_size" in recorded else "target_sizes"])[0]
    original = (int(target[0]), int(target[1]))
    side = int(pixels.shape[-1])
    frame = Frame((side, side), fit_into_square(original, side, side), original)
    outputs = model.adapter.candidates(model.module, pixels[:1], [frame])
    rule = parse_rule("eomt:score=0.5,overlap=0.25")
    ids, segments = rule.to_segments(fuse(outputs, rule)[0])
    theirs = recorded["mid_segmentation_0"]
    their_labels = {int(each[0]): int(each[1]) for each in recorded["mid_segments_0"]}
    apart_in_map = differing(ids, {each.id: each.label for each in segments}, theirs, their_labels)
    return title, "transformers 5.23.0", apart, apart_in_map


def rule_rows(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Returns (rule, original, differing pixels) of each recorded rule, over all of its scenes."""
    inputs = {"": "inputs.npz", "maskdino": "inputs_sigmoid.npz", "mask-wise": "panoptic_segformer_inputs.npz"}
    for text, original in (
        ("mask2former", "mask2former"),
        ("maskformer", "maskformer"),
        ("maskdino", "maskdino"),
        ("detr", "detr"),
        ("detr:score=0.5", "detr_t05"),
        ("mask-wise", "panoptic_segformer"),
        ("mask-wise:quality=0.3", "panoptic_segformer_030"),
        ("eomt", "transformers_eomt"),
        ("transformers", "transformers_mask2former"),
        ("transformers:score=0.8", "transformers_mask2former_t08"),
        ("transformers:processor=maskformer", "transformers_maskformer"),
        ("panoptic-fpn", "panoptic_fpn_d2"),
        ("panoptic-fpn:score=0.05,stuff_area=256", "panoptic_fpn_d2_small"),
        ("argmax", "pixelwise_argmax_weighted"),
        ("argmax:weighted=false", "pixelwise_argmax"),
    ):
        rule = parse_rule(text)
        name = inputs.get(rule.name, "panoptic_fpn_d2.npz" if rule.name == "panoptic-fpn" else inputs[""])
        recorded, wrong, total = np.load(folder / f"{original}.npz"), 0, 0
        for index, (ids, segments) in enumerate(fuse_arrays(read_arrays(folder / name), rule)):
            labels = dict(enumerate(recorded[f"labels_{index}"].tolist(), start=1))
            text_of = differing(ids, {each.id: each.label for each in segments}, recorded[f"map_{index}"], labels)
            wrong, total = wrong + int(text_of.split()[0]), total + ids.size
        yield text, original, f"{wrong} of {total:,}"


def main() -> None:
    """Parses the arguments and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a folder with other_models/ and fusion_rules/ as recorded")
    options = parser.parse_args()
    rows: list[Callable[[], Row]] = [
        panoptic_segformer,
        mask_dino,
        lambda: transformers_row("EoMT", reference.FOLDER / "eomt"),
    ]
    if options.reference:
        rows.append(lambda: transformers_row("Mask2Former", options.reference / "other_models" / "mask2former"))
    with torch.inference_mode():
        networks = [row() for row in rows]
        rules = list(rule_rows(options.reference / "fusion_rules")) if options.reference else []
    heads = ("family", "against", "logits, largest difference", "map, pixels that differ")
    cells = ([*names, f"{apart:.1e}", pixels] for *names, apart, pixels in networks)
    print(table(heads, cells))
    if rules:
        print(f"\n{table(('rule', 'original', 'pixels that differ'), ([f'`{text}`', *rest] for text, *rest in rules))}")


if __name__ == "__main__":
    main()
