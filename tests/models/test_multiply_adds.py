"""The multiply-adds that `panbench models` shows are those that the script counts."""

import subprocess
import sys
from pathlib import Path

from panbench.catalog import configs_folder, load_catalog, multiply_adds

ROOT = Path(__file__).parents[2]
SHIPPED = load_catalog(configs_folder())


def test_small_models_have_the_recorded_count() -> None:
    """In a process of its own, as tensors without data stay in panbench's store of constants."""
    names = ["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny", "eomt-tiny"]
    line = [sys.executable, str(ROOT / "scripts" / "make" / "multiply_adds.py"), *names]
    printed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = dict(each.split(maxsplit=1) for each in printed.splitlines())
    counts = {name: multiply_adds()[name] for name in names if name != "panoptic-fpn-tiny"}
    expected = {name: f"{count / 1e9:,.1f} G" for name, count in counts.items()}
    assert found == {"panoptic-fpn-tiny": "depends on the image", **expected}


def test_every_model_with_constant_work_is_counted() -> None:
    missing = [spec for name, spec in SHIPPED.items() if name not in multiply_adds()]
    assert {spec.family for spec in missing} == {"panoptic-fpn"}
    assert set(multiply_adds()) <= set(SHIPPED)


def test_the_page_on_bench_has_these_counts() -> None:
    """docs/bench.md has what `panbench bench` counts of networks with values."""
    table = (ROOT / "docs" / "bench.md").read_text("utf-8")
    for name, title in (("mask2former-r50", "Mask2Former R50"), ("maskformer-r50", "MaskFormer R50")):
        assert f"| {title} | {multiply_adds()[name] / 1e9:.1f} |" in table
