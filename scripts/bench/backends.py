"""Ways to run the convolutions of Panoptic FPN R50 on this CPU: CPU time, GFLOP/s, and how far the answer moves.

    python scripts/bench/backends.py
    python scripts/bench/backends.py --with compile openvino onnxruntime --height 800 --width 1088 --rounds 3

What runs is backbone, FPN and semantic head on one random image, with random weights: most of what a CPU spends its
time on. Every way has the same weights, input and threads (one: threads that wait spin, and CPU time would count it);
they take turns after one round to warm up. The last rows are the machine's own rate, of one large convolution.

`compile` needs a C++ compiler; the other two: pip install openvino; pip install onnx onnxscript onnxruntime
"""

import copy
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from panbench.catalog import find_model
from panbench.models.devices import keep_as_autocast_has_them
from panbench.models.host import HostedModel
from panbench.models.opening import open_model
from scripts.bench.harness import Row, arguments, compared, cpu_seconds, finish, in_turn

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
    options = arguments(__doc__, height=320, width=416, threads=1, rounds=2, **{"with": ("",)})
    others = [word for word in getattr(options, "with") if word]
    if unknown := set(others) - set(OTHERS):
        raise SystemExit(f"--with knows {', '.join(OTHERS)}, not {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = open_model(find_model("panoptic-fpn-r50-1x"), weights="random", device="cpu")
    assert isinstance(model, HostedModel)
    net = Convolutions(model.module).eval()
    pixels = torch.randn(1, 3, options.height, options.width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = net(pixels)
    giga = counter.get_total_flops() / 1e9
    print(f"torch {torch.__version__}, {options.threads} threads, {giga:.0f} GFLOP (a multiply-add is two)")
    ways = [*own_ways(net, pixels), *itertools.chain.from_iterable(FURTHER[name](net, pixels) for name in others)]
    rows = measure(dict(ways), pixels, expected, giga, options.rounds)
    for kind in (torch.float32, torch.bfloat16):
        name = f"the machine's own rate, {str(kind).removeprefix('torch.')}"
        rows.append({**dict.fromkeys(rows[0], "–"), next(iter(rows[0])): name, "GFLOP per CPU s": f"{rate(kind):.0f}"})
    finish("backends", rows, options.write and not others)


def measure(
    ways: dict[str, Callable[[], Way]], pixels: Tensor, expected: Sequence[Tensor], giga: float, rounds: int
) -> list[Row]:
    """A row for each way, in turn; one that this machine does not have says why on the terminal."""
    work: dict[str, Way] = {}
    first, worst = {}, {}
    for name, build in ways.items():
        began = time.process_time()
        try:
            with torch.no_grad():
                way = build()
                found = way(pixels)
        except Exception as error:
            print(f"{name} failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}")
            continue
        work[name], first[name] = way, time.process_time() - began
        pairs = zip(found, expected, strict=True)
        worst[name] = max(float((ours.float() - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)
    with torch.no_grad():
        spent = in_turn({name: lambda way=way: way(pixels) for name, way in work.items()}, rounds)  # type: ignore[misc]
    one, *_ = spent
    return [
        {
            f"{pixels.shape[-2]}×{pixels.shape[-1]}, {giga:.0f} GFLOP, {torch.get_num_threads()} threads": name,
            "CPU ms": f"{1e3 * min(seconds):.0f}",
            "GFLOP per CPU s": f"{giga / min(seconds):.0f}",
            **compared(spent[one], seconds, "× the first"),
            "worst": f"{worst[name]:.0e}",
            "first round, CPU s": f"{first[name]:.1f}",
        }
        for name, seconds in spent.items()
    ]


def own_ways(net: nn.Module, pixels: Tensor) -> list[tuple[str, Callable[[], Way]]]:
    """PyTorch without further programs."""

    def contiguous() -> Way:
        return copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]

    def frozen() -> Way:
        traced = torch.jit.trace(net, torch.randn_like(pixels), strict=False, check_trace=False)
        module = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        with torch.no_grad():
            module(torch.randn_like(pixels))
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
    """GFLOP per CPU second of a 3×3 convolution of 256 channels on 100×136, channels-last, the best of five."""
    convolution = nn.Conv2d(256, 256, 3, padding=1, dtype=dtype)
    convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.randn(1, 256, 100, 136).to(dtype=dtype, memory_format=torch.channels_last)
    best = float("inf")
    with torch.no_grad():
        for _ in range(5):
            best = min(best, cpu_seconds(lambda: convolution(pixels)))
    return 2 * 9 * 256 * 256 * 100 * 136 / best / 1e9


if __name__ == "__main__":
    main()
