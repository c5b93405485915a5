"""Whole evaluations by PyTorch and by OpenVINO (`--precision fp32+openvino`): CPU time, and how maps and PQ differ.

    pip install openvino
    python scripts/bench/runtimes.py --models mask2former-swin-t --write     # the rows of other models are kept

Both ways evaluate the same generated images with the same weights, in turn, on one thread. The tiny models are trained;
the others have random weights, a class for every query, and the rule `argmax:score=0`, which gives each pixel to some
query: their PQ is of no meaning. "Start" is the first evaluation's time beyond a later one's: converting, compiling,
and PyTorch's answer to compare with, once for each size of image.
"""

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from panbench.datasets import open_dataset
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.models.opening import open_model
from panbench.models.rules import parse_rule
from panbench.runs import Run
from panbench.studies.agreement.answer import agreement
from panbench.studies.openvino.model import by_openvino
from scripts.bench.against import spec_of
from scripts.bench.harness import Row, arguments, compared, cpu_seconds, finish, stored, turns

TINY = ("panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny", "oneformer-tiny", "eomt-tiny")
HEAVY = {"mask2former-r50": (800, 1216), "mask2former-swin-t": (800, 1216), "eomt-s-640": (640, 640)}
"""Height and width of the images."""


def main() -> None:
    """Prints a row for each model."""
    options = arguments(__doc__, models=(*TINY, *HEAVY), images=2, rounds=2, threads=1)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(name, options.images, options.rounds, Path(folder))
        titles = [spec_of(each).title for each in (*TINY, *HEAVY)]
        rows = [row, *(each for each in stored("runtimes") if each["model"] != row["model"])]
        finish("runtimes", sorted(rows, key=lambda each: titles.index(each["model"])), options.write)


def measure(name: str, images: int, rounds: int, folder: Path) -> Row:
    """Evaluates one model by both runtimes; returns the row."""
    tiny = name in TINY
    model = open_model(spec_of(name), weights="auto" if tiny else "random", device="cpu")
    dataset = open_dataset("shapes", limit=40) if tiny else None
    if dataset is None:
        dataset = generated_dataset(model.class_names, model.isthing, size=HEAVY[name], count=images)
        model.rule = parse_rule("argmax:score=0")
        _give_each_query_a_class(model)
    models = {"PyTorch": model, "OpenVINO": by_openvino(model)}
    runs: dict[str, Run] = {}

    def seconds(way: str) -> float:
        def work() -> None:
            wish = EvaluateOptions(save_predictions=True, overwrite=True)
            runs[way] = evaluate(models[way], dataset, folder / way, wish)

        return cpu_seconds(work)

    first = {way: seconds(way) for way in models}
    spent = turns({way: lambda way=way: seconds(way) for way in models}, rounds)  # type: ignore[misc]
    print({way: [round(each, 2) for each in (first[way], *spent[way])] for way in models}, flush=True)
    found = agreement(runs["PyTorch"], runs["OpenVINO"]).sum()
    scores = {way: 100 * float(run.summary()["All"]["PQ"] or 0) for way, run in runs.items()}
    number = len(dataset.scenes)
    return {
        "model": spec_of(name).title,
        "images": str(number),
        "CPU s": f"{min(spent['PyTorch']) / number:.3f}",
        "by OpenVINO": f"{min(spent['OpenVINO']) / number:.3f}",
        **compared(spent["PyTorch"], spent["OpenVINO"]),
        "start, CPU s": f"{first['OpenVINO'] - min(spent['OpenVINO']):.1f}",
        "of 1,000 pixels differ": f"{1000 * found['differing'] / found['pixels']:.4f}",
        "segments that flip": f"{found['flipped_1']} of {found['segments_1']}",
        "PQ": f"{scores['PyTorch']:.2f}" if tiny else "–",
        "by OpenVINO, PQ": f"{scores['OpenVINO']:.2f}" if tiny else "–",
    }


def _give_each_query_a_class(model: Any) -> None:
    for part in model.module.modules():
        if isinstance(part, torch.nn.Linear) and part.out_features == len(model.class_names) + 1:
            part.bias.data[-1] = -100.0


if __name__ == "__main__":
    main()
