"""Bad arguments are refused before PyTorch is loaded, by a process that cannot load it."""

from pathlib import Path

from support import refuses_without_torch

from panbench.datasets import shapes

TINY = ("--model", "mask2former-tiny")


def test_names_that_there_are_not_are_refused_without_pytorch(tmp_path):
    refuses_without_torch(
        tmp_path,
        [
            (["eval", *TINY, "--device", "gpu"], "--device gpu is unknown"),
            (["bench", *TINY, "--device", "gpu"], "--device gpu is unknown"),
            (["eval", *TINY, "--precision", "float16"], "--precision float16 is unknown"),
            (["eval", *TINY, "--precision", "bf16+fast"], "as in bf16+compile"),
            (["bench", *TINY, "--precision", "fp32,half"], "--precision half is unknown"),
            (["eval", *TINY, "--rule", "paper,hf"], "There is no fusion rule 'hf'. Did you mean transformers?"),
            (["eval", *TINY, "--data", "coco"], "Mask2Former tiny and the dataset have different categories"),
            (
                ["eval", "--model", "facebook/mask2former-swin-base-coco-panoptic"],
                "--model mask2former-hf-swin-b or --model hf:facebook/mask2former-swin-base-coco-panoptic.",
            ),
            (["eval", "--model", "owner/name"], "is named --model hf:owner/name."),
            (["predict", "nophoto.jpg", *TINY], "There is no image nophoto.jpg"),
        ],
    )
    assert list(tmp_path.iterdir()) == []


def test_categories_and_networks_that_cannot_fit_are_refused_without_pytorch(tmp_path):
    shapes.generate(tmp_path / "other", count=1, size=(64, 96))
    listing = tmp_path / "other" / "annotations" / "panoptic_val.json"
    listing.write_text(listing.read_text().replace('"ball"', '"balloon"'))
    (photo,) = (tmp_path / "other" / "val").iterdir()
    queries = "Panoptic FPN tiny has no queries, so no attention to show"
    refuses_without_torch(
        tmp_path,
        [
            (["eval", *TINY, "--data", "other"], "of them not in the dataset ball; "),
            (["show", "attention", "--model", "panoptic-fpn-tiny", "--photo", str(photo)], queries),
        ],
    )
    assert not Path(tmp_path / "results").exists()
