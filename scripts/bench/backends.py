"""Networks by panbench, OpenVINO and ONNX Runtime on this CPU: CPU time, GFLOP/s, and how far the answer moves.

    pip install openvino onnx onnxscript onnxruntime
    python scripts/bench/backends.py --networks eomt-s swin-t --write          # the rows of other networks are kept

Every way has the same random weights, input and threads (one: threads that wait spin, and CPU time would count it);
they take turns after a round to warm up. Whole networks without fusion, or Swin-T's backbone alone. Others get the
network as panbench changes it, or, where they cannot convert that, as it comes; what they cannot convert has its error.
"Worst" is the largest difference from the first row, as a share of the largest value.
"""

import functools
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from panbench.models.host import HostedModel
from panbench.models.opening import open_model
from scripts.bench.against import spec_of
from scripts.bench.harness import Row, arguments, compared, finish, in_turn, stored

Way = Callable[[], Sequence[Tensor]]
Network = Callable[[str, bool], tuple[nn.Module, HostedModel]]

NETWORKS = {
    "eomt-s": ("EoMT-S, 640×640", "eomt-s-640", (640, 640)),
    "swin-t": ("Swin-T's backbone, 800×1088", "mask2former-swin-t", (800, 1088)),
    "mask2former-r50": ("Mask2Former R50, 640×864", "mask2former-r50", (640, 864)),
    "mask2former-swin-t": ("Mask2Former Swin-T, 640×864", "mask2former-swin-t", (640, 864)),
}
"""What is measured: its title, the model, and the size of the input."""
BY = ("panbench", "OpenVINO", "ONNX Runtime")


class Whole(nn.Module):
    """Wraps a network from pixels to class and mask logits, or to the features of its backbone."""

    def __init__(self, module: Any, backbone: bool) -> None:
        super().__init__()
        self.module, self.backbone = module, backbone

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """pixels: (1, 3, H, W) float32."""
        if self.backbone:
            return tuple(self.module.backbone(pixels))
        if hasattr(self.module, "panoptic_head"):
            classes, masks = self.module.panoptic_head(self.module.extract_feat(pixels), [])
            return classes[-1], masks[-1]
        found = self.module(pixel_values=pixels)
        return found.class_queries_logits, found.masks_queries_logits


def main() -> None:
    """Prints a row for each backend of each network."""
    options = arguments(__doc__, networks=tuple(NETWORKS), by=BY, threads=1, rounds=3)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in options.networks:
        rows += measure(name, options.by, options.rounds)
    titles = [title for title, *_ in NETWORKS.values()]
    now = {(row["network"], row["by"]) for row in rows}
    rows += [row for row in stored("backends") if (row["network"], row["by"]) not in now]
    finish("backends", sorted(rows, key=lambda row: titles.index(row["network"])), options.write)


def measure(name: str, by: Sequence[str], rounds: int) -> list[Row]:
    """Measures all backends of a network in turn; returns a row for each."""
    title, model, size = NETWORKS[name]
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))

    def opened(precision: str = "fp32", speedups: bool = True) -> tuple[Whole, HostedModel]:
        torch.manual_seed(0)
        host = open_model(spec_of(model), weights="random", device="cpu", precision=precision, speedups=speedups)
        assert isinstance(host, HostedModel)
        return Whole(host.module, name == "swin-t"), host

    def own(precision: str) -> Way:
        net, host = opened(precision)

        def run() -> Sequence[Tensor]:
            with host.autocast_and_tf32():
                return net(pixels)  # type: ignore[no-any-return]

        return run

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        opened()[0](pixels)
    giga = counter.get_total_flops() / 1e9
    plain = [functools.partial(opened, speedups=speedups) for speedups in (True, False)]
    ways: dict[str, Callable[[], Way]] = {
        "panbench, fp32": lambda: own("fp32"),
        "OpenVINO, f32": lambda: first_of(plain, lambda net: by_openvino(net, pixels, "f32")),
        "ONNX Runtime, f32": lambda: first_of(plain, lambda net: by_onnx(net, pixels, torch.float32)),
        "panbench, bf16": lambda: own("bf16"),
        "OpenVINO, bf16": lambda: first_of(plain, lambda net: by_openvino(net, pixels, "bf16")),
        "ONNX Runtime, bf16": lambda: first_of(plain, lambda net: by_onnx(net, pixels, torch.bfloat16)),
    }
    work: dict[str, Way] = {}
    failed, worst = {}, {}
    expected: Sequence[Tensor] = ()
    ways = {way: build for way, build in ways.items() if way.startswith(("panbench, fp32", *by))}
    for way, build in ways.items():
        try:
            with torch.inference_mode():
                run = build()
                found = run()
        except Exception as error:
            cause = error.__cause__ or error
            failed[way] = f"{type(cause).__name__}: {_line_with_reason(str(cause))}"
            print(f"{title}, {way}: {failed[way]}", flush=True)
            continue
        work[way], expected = run, expected or found
        worst[way] = max(
            float((ours.float() - theirs).abs().max() / theirs.abs().max())
            for ours, theirs in zip(found, expected, strict=True)
        )
    with torch.inference_mode():
        spent = in_turn(work, rounds)
    print({way: [round(each, 2) for each in seconds] for way, seconds in spent.items()}, flush=True)
    first = spent["panbench, fp32"]
    return [
        {
            "network": title,
            "by": way,
            "CPU s": f"{min(spent[way]):.2f}" if way in spent else f"does not convert: {failed[way]}",
            "panbench's fp32 ÷ this": compared(first, spent[way])["ratio"] if way in spent else "–",
            "GFLOP per CPU s": f"{giga / min(spent[way]):.0f}" if way in spent else "–",
            "worst": f"{worst[way]:.0e}" if way in spent else "–",
        }
        for way in ways
    ]


def _line_with_reason(text: str) -> str:
    """Returns the line of an error that gives the reason: OpenVINO's is not the first."""
    lines = text.strip().splitlines() or [""]
    return next((line for line in lines if "No conversion rule" in line), lines[0]).strip(" -")[:90]


def first_of(builds: Sequence[Callable[[], tuple[Whole, HostedModel]]], convert: Callable[[nn.Module], Way]) -> Way:
    """Returns the first network that converts and runs."""
    for build in builds[:-1]:
        try:
            way = convert(build()[0])
            way()
            return way
        except Exception:
            continue
    return convert(builds[-1]()[0])


def by_openvino(net: nn.Module, pixels: Tensor, precision: str) -> Way:
    """Compiles a network for OpenVINO, on the same number of threads."""
    import openvino  # type: ignore[import-not-found, import-untyped, unused-ignore]

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    wishes = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    with torch.no_grad():
        compiled = core.compile_model(openvino.convert_model(net, example_input=pixels), "CPU", wishes)
    return lambda: [torch.from_numpy(values) for values in compiled(pixels.numpy()).values()]


def by_onnx(net: nn.Module, pixels: Tensor, dtype: torch.dtype) -> Way:
    """Exports a network for ONNX Runtime's CPU executor, on the same number of threads."""
    import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    net, given = net.to(dtype), pixels.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        with torch.no_grad():
            torch.onnx.export(net, (given,), str(path), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda: [torch.from_numpy(values) for values in session.run(None, {name: given.numpy()})]


if __name__ == "__main__":
    main()
