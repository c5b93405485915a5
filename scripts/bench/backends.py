"""Ways to run the convolutions of Panoptic FPN R50 on this CPU: milliseconds, GFLOP/s, and how far the answer moves.

    python scripts/bench/backends.py
    python scripts/bench/backends.py --with compile,openvino,onnxruntime

What runs is backbone, FPN and semantic head on one random image of 800×1088, with random weights: most of what a CPU
spends its time on. Every way has the same weights, input and threads, and runs after one round to warm up; the best of
a few rounds counts. The last line is the machine's own rate, of one large convolution in the same process.

`compile` needs a C++ compiler; the other two: pip install openvino; pip install onnx onnxscript onnxruntime
"""

import argparse
import copy
import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from panbench.catalog import find_model
from panbench.models.devices import keep_as_autocast_has_them
from panbench.models.host import HostedModel
from panbench.models.opening import open_model

Way = Callable[[Tensor], Sequence[Tensor]]

OTHERS = ("compile", "openvino", "onnxruntime")


class Convolutions(nn.Module):
    """What of Panoptic FPN takes an image alone: the levels of its FPN, and the semantic logits."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.backbone, self.neck, self.semantic = module.backbone, module.neck, module.semantic_head

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """pixels: (1, 3, H, W) float32."""
        levels = self.neck(self.backbone(pixels))
        return (*levels, self.semantic(levels)["seg_preds"])


def main() -> None:
    """Prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with", dest="others", default="", help=f"also try some of {', '.join(OTHERS)}")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    others = [word for word in arguments.others.split(",") if word]
    if unknown := set(others) - set(OTHERS):
        parser.error(f"--with knows {', '.join(OTHERS)}, not {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    model = open_model(find_model("panoptic-fpn-r50-1x"), weights="random", device="cpu")
    assert isinstance(model, HostedModel)
    net = Convolutions(model.module).eval()
    pixels = torch.randn(1, 3, 800, 1088)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = net(pixels)
    giga = counter.get_total_flops() / 1e9
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {giga:.0f} GFLOP (a multiply-add is two)")
    for name, build in (*own_ways(net), *itertools.chain.from_iterable(FURTHER[name](net, pixels) for name in others)):
        measure(name, build, pixels, expected, giga, arguments.rounds)
    print(
        f"the machine's own rate: {rate(torch.float32):.0f} GFLOP/s in float32, {rate(torch.bfloat16):.0f} in bfloat16"
    )


def measure(
    name: str, build: Callable[[], Way], pixels: Tensor, expected: Sequence[Tensor], giga: float, rounds: int
) -> None:
    """Prints one row; a way that this machine does not have says why."""
    try:
        way = build()
        began = time.perf_counter()
        with torch.no_grad():
            found = way(pixels)
        first = time.perf_counter() - began
        best = float("inf")
        for _ in range(rounds):
            began = time.perf_counter()
            with torch.no_grad():
                found = way(pixels)
            best = min(best, time.perf_counter() - began)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        print(f"{name:44s} failed: {type(error).__name__}: {reason[:120]}", flush=True)
        return
    pairs = zip(found, expected, strict=True)
    worst = max(float((ours.float() - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)
    print(
        f"{name:44s} {1000 * best:7.0f} ms {giga / best:6.0f} GFLOP/s  worst {worst:.1e}  first {first:5.1f} s",
        flush=True,
    )


def own_ways(net: nn.Module) -> list[tuple[str, Callable[[], Way]]]:
    """PyTorch without further programs."""

    def contiguous() -> Way:
        return copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]

    def frozen() -> Way:
        traced = torch.jit.trace(net, torch.randn(1, 3, 800, 1088), strict=False, check_trace=False)
        module = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        with torch.no_grad():
            module(torch.randn(1, 3, 800, 1088))
        return module  # type: ignore[no-any-return]

    def throughout() -> Way:
        module = copy.deepcopy(net).to(torch.bfloat16)
        return lambda pixels: module(pixels.to(torch.bfloat16))  # type: ignore[no-any-return]

    return [
        ("eager, channels-last (as panbench runs)", lambda: net),
        (
            "eager, channels-last input as well",
            lambda: lambda pixels: net(pixels.contiguous(memory_format=torch.channels_last)),
        ),
        ("eager, contiguous", contiguous),
        ("torch.jit, frozen, optimize_for_inference", frozen),
        ("bf16 autocast, weights cast each time", lambda: autocast(net)),
        ("bf16 autocast, weights kept (as panbench)", lambda: autocast(halved(net))),
        ("bf16 throughout", throughout),
    ]


def compiled_ways(net: nn.Module, _: Tensor) -> list[tuple[str, Callable[[], Way]]]:
    """torch.compile with weights as constants."""
    options: Any = {"freezing": True}
    return [
        ("torch.compile, frozen", lambda: torch.compile(net, options=options)),
        ("torch.compile, frozen, bf16 autocast", lambda: autocast(torch.compile(halved(net), options=options))),
    ]


def openvino_ways(net: nn.Module, pixels: Tensor) -> list[tuple[str, Callable[[], Way]]]:
    """OpenVINO's own executor, on as many threads."""

    def build(precision: str) -> Way:
        import openvino  # type: ignore[import-not-found, import-untyped, unused-ignore]

        core = openvino.Core()
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
        wishes = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(openvino.convert_model(net, example_input=pixels), "CPU", wishes)
        return lambda pixels: [torch.from_numpy(values) for values in compiled(pixels.numpy()).values()]

    return [("OpenVINO, f32", lambda: build("f32")), ("OpenVINO, bf16", lambda: build("bf16"))]


def onnx_ways(net: nn.Module, pixels: Tensor) -> list[tuple[str, Callable[[], Way]]]:
    """ONNX Runtime's CPU executor, on as many threads."""

    def build() -> Way:
        import tempfile
        from pathlib import Path

        import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            with torch.no_grad():
                torch.onnx.export(net, (pixels,), str(path), dynamo=True, verbose=False)
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda pixels: [torch.from_numpy(values) for values in session.run(None, {name: pixels.numpy()})]

    return [("ONNX Runtime, f32", build)]


FURTHER: dict[str, Callable[[nn.Module, Tensor], list[tuple[str, Callable[[], Way]]]]] = {
    "compile": compiled_ways,
    "openvino": openvino_ways,
    "onnxruntime": onnx_ways,
}


def autocast(net: Any) -> Way:
    """The network under autocast to bfloat16."""

    def run(pixels: Tensor) -> Sequence[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(pixels)  # type: ignore[no-any-return]

    return run


def halved(net: nn.Module) -> nn.Module:
    """A copy with the weights that autocast would cast in each round."""
    copied = copy.deepcopy(net)
    keep_as_autocast_has_them(copied, torch.bfloat16)
    return copied


def rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a 3×3 convolution of 256 channels on 100×136, channels-last, best of ten."""
    convolution = nn.Conv2d(256, 256, 3, padding=1, dtype=dtype)
    convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.randn(1, 256, 100, 136).to(dtype=dtype, memory_format=torch.channels_last)
    best = float("inf")
    with torch.no_grad():
        for _ in range(10):
            began = time.perf_counter()
            convolution(pixels)
            best = min(best, time.perf_counter() - began)
    return 2 * 9 * 256 * 256 * 100 * 136 / best / 1e9


if __name__ == "__main__":
    main()
