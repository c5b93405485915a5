"""What train_tiny.py and train_tiny_transformers.py share: weights into configs/weights, with a card.

Not a program: both call `export` with the state they trained and the words about how.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from panbench.base.files import atomic_write, sha256_of  # noqa: E402
from panbench.catalog import find_model  # noqa: E402
from panbench.datasets import open_dataset, shapes  # noqa: E402
from panbench.evaluation.evaluate import evaluate  # noqa: E402
from panbench.models.opening import open_model  # noqa: E402

__all__ = ["export"]


def export(name: str, state_dict: Mapping[str, Tensor], *, kind: str, trained: str) -> None:
    """Writes configs/weights/<name>.safetensors, evaluates it on `shapes` val, and writes and prints its model card.

    Weights of two and more dimensions are stored as float16; what is evaluated is the stored file.
    kind: what sort of model it is, for the card's first sentence; trained: how, the card's second point
    """
    state = {
        key: value.half() if value.is_floating_point() and value.ndim >= 2 else value
        for key, value in state_dict.items()
    }
    target = ROOT / "configs" / "weights" / f"{name}.safetensors"
    classes = [category["name"] for category in shapes.CATEGORIES]
    with atomic_write(target) as handle:
        handle.write(safetensors.torch.save(state, {"model": name, "classes": json.dumps(classes)}))
    spec = find_model(name)
    with tempfile.TemporaryDirectory() as folder:
        run = evaluate(open_model(spec), open_dataset("shapes"), Path(folder) / name)
        summary = run.summary()
    parameters = (run.info.model and run.info.model.params) or 0
    lines = [
        f"# {spec.title}",
        "",
        f"A small {kind} for trying out panbench without a download; it knows the nine categories of",
        f"`shapes`, the generated dataset, and nothing else. Config: `configs/{name}.py`.",
        "",
        f"- Parameters: {parameters:,}; file: {target.stat().st_size:,} bytes (float16), SHA-256 `{sha256_of(target)}`",
        f"- Trained: {trained}",
        f"- Evaluated on the {run.info.images.scored} scenes of the split `val` with seed 0, none of them "
        f"a training scene: `panbench eval --model {name} --data shapes`",
        "",
        "| | PQ | SQ | RQ | categories |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for group, row in summary.items():
        scores = " | ".join(f"{100 * (row[score] or 0.0):.2f}" for score in ("PQ", "SQ", "RQ"))
        lines.append(f"| {group} | {scores} | {row['n']} |")
    with atomic_write(target.with_suffix(".md"), "w") as handle:
        handle.write("\n".join(lines) + "\n")
    print("\n".join(lines))
