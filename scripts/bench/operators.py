"""Time, memory and agreement of panbench's operators, beside torchvision's and mmcv's C++ where they can be had.

    python scripts/bench/operators.py [--device cpu|cuda] [--rounds 3]
    python scripts/bench/operators.py --build-kernels    # needs g++ and a minute or two

mmcv-lite ships the C++ of mmcv's CPU kernels without building it; --build-kernels compiles its nms.cpp and
roi_align.cpp as they are, in a temporary folder. The sides of a case take turns, and the best time of each is printed,
with how many times ours that is and the largest difference from panbench's answer. On the CPU the time is that of one
thread at work, on CUDA that of the clock. A CSV is written on the CPU with both compiled kernels only.
"""

import functools
import importlib
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from panbench.models import onednn
from panbench.models.mmdet import operators
from scripts.bench.child import peak as host_peak
from scripts.bench.harness import Row, arguments, compared, finish, turns

BINDINGS = """
#include <torch/extension.h>
using at::Tensor;
Tensor nms_cpu(Tensor, Tensor, float, int);
void ROIAlignForwardCPULauncher(Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float, int, int, bool);
// What the two files register themselves with in the whole of mmcv.
Tensor nms_impl(Tensor b, Tensor s, float t, int o) { return nms_cpu(b, s, t, o); }
Tensor softnms_impl(Tensor b, Tensor, Tensor, float, float, float, int, int) { return b; }
std::vector<std::vector<int>> nms_match_impl(Tensor, float) { return {}; }
void roi_align_forward_impl(Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float, int, int, bool) {}
void roi_align_backward_impl(Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float, int, int, bool) {}
PYBIND11_MODULE(mmcv_kernels, m) {
  m.def("nms", &nms_cpu);
  m.def("roi_align", &ROIAlignForwardCPULauncher);
}
"""

SCALE = 1 / 4  # feature cells a pixel: the finest level of a feature pyramid
CHANNELS, HEIGHT, WIDTH = 256, 200, 336
LINEAR = ((17850, 256, 256), (1805, 384, 1536), (1805, 1024, 4096), (2048, 256, 1024), (17850, 256, 1024))
"""Rows, in_features, out_features."""


def main() -> None:
    """Prints a row per case and side."""
    options = arguments(__doc__, build_kernels=False, device="cpu", rounds=3)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(options.device)
    on = f" on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    print(f"mmcv's operators: {operators.install()}; torch {torch.__version__}{on}")
    kernels = build_kernels() if options.build_kernels and device.type == "cpu" else None
    torchvision = load_torchvision()
    with torch.no_grad():
        measure_memory(device)
        rows = [
            *bench_roi_align(device, options.rounds, kernels, torchvision),
            *bench_nms(device, options.rounds, kernels, torchvision),
            *bench_attention(device, options.rounds),
            *bench_linear(device, options.rounds),
        ]
    absent = [] if kernels else ["mmcv's C++ (--build-kernels)"]
    finish("operators", rows, options.write and device.type == "cpu", absent)


def measure_memory(device: torch.device) -> None:
    """Prints the peak above input and output; runs first, before anything else raises the peak."""
    features = torch.randn(1, CHANNELS, HEIGHT, WIDTH, device=device)
    rois = random_rois(1000, 16, 800, device)
    before = peak(device)
    output = mmcv_roi_align(operators.roi_align_forward, features, rois, 7)
    above = peak(device) - before - output.nbytes
    print(
        f"roi_align of 1000 boxes, 16–800 px, 7×7: at its peak {above / 1e6:.0f} MB above the map's "
        f"{features.nbytes / 1e6:.0f} MB and the output's {output.nbytes / 1e6:.0f} MB"
    )


def bench_roi_align(device: torch.device, rounds: int, kernels: Any, torchvision: Any) -> list[Row]:
    """Measures RoIAlign of 1000 boxes on one map, with sizes evenly spread over octaves."""
    features = torch.randn(1, CHANNELS, HEIGHT, WIDTH, device=device)
    rows = []
    for size in (7, 14):
        for smallest, largest in ((8, 56), (16, 112), (32, 400)):
            rois = random_rois(1000, smallest, largest, device)
            sides = {"panbench": functools.partial(mmcv_roi_align, operators.roi_align_forward, features, rois, size)}
            if torchvision:
                sides["torchvision"] = functools.partial(
                    torchvision.roi_align, features, rois, SCALE, size, size, 0, True
                )
            if kernels:
                sides["mmcv C++"] = functools.partial(mmcv_roi_align, kernels.roi_align, features, rois, size)
            rows += report(f"roi_align of 1000 boxes, {smallest}–{largest} px, {size}×{size}", sides, rounds, device)
    return rows


def bench_nms(device: torch.device, rounds: int, kernels: Any, torchvision: Any) -> list[Row]:
    """Measures nms of evenly spread boxes, and of proposals crowded around 60 objects on five levels."""
    rows = []
    for count in (1000, 2000, 6000):
        objects = random_rois(60, 16, 400, device)[:, 1:]
        near = objects[torch.randint(60, (count,), device=device)]
        extent = (near[:, 2:] - near[:, :2]).repeat(1, 2)
        level = torch.randint(5, (count, 1), device=device) * 1345.0
        crowded = near + 0.08 * extent * torch.randn_like(near) + level
        for kind, boxes in (("strewn", random_rois(count, 16, 400, device)[:, 1:]), ("crowded", crowded)):
            scores = torch.rand(count, device=device)
            sides = {"panbench": functools.partial(operators.nms, boxes, scores, 0.7)}
            if torchvision:
                sides["torchvision"] = functools.partial(torchvision.nms, boxes, scores, 0.7)
            if kernels:
                sides["mmcv C++"] = functools.partial(kernels.nms, boxes, scores, 0.7, 0)
            rows += report(f"nms of {count} {kind} boxes at 0.7", sides, rounds, device)
    return rows


def bench_attention(device: torch.device, rounds: int) -> list[Row]:
    """Measures deformable attention of Mask2Former's pixel decoder on an 800×1344 image."""
    attend = importlib.import_module("mmcv.ops.multi_scale_deform_attn").multi_scale_deformable_attn_pytorch
    shapes = torch.tensor([[25, 42], [50, 84], [100, 168]], device=device)
    keys = int(shapes.prod(1).sum())
    value = torch.randn(1, keys, 8, 32, device=device)
    places = torch.rand(1, keys, 1, 1, 1, 2, device=device)
    places = places + 0.05 * torch.randn(1, keys, 8, 3, 4, 2, device=device)
    weights = torch.randn(1, keys, 8, 12, device=device).softmax(-1).view(1, keys, 8, 3, 4)
    inputs = (value, shapes, places, weights)
    sides = {
        "panbench": functools.partial(operators.deformable_attention, *inputs),
        "mmcv's PyTorch": functools.partial(attend, *inputs),
    }
    return report(f"deformable attention of {keys} queries", sides, rounds, device)


def bench_linear(device: torch.device, rounds: int) -> list[Row]:
    """Linear layers of an R50, Swin-T and EoMT-S, packed by oneDNN and as PyTorch runs them (MKL)."""
    rows: list[Row] = []
    for count, inputs, outputs in LINEAR if device.type == "cpu" else ():
        layer, values = torch.nn.Linear(inputs, outputs), torch.randn(count, inputs)
        plain = functools.partial(torch.nn.Linear.forward, layer, values)
        with torch.inference_mode(), onednn.packed(layer):
            sides = {"panbench": functools.partial(layer, values), "PyTorch": plain}
            rows += report(f"linear layer {inputs}→{outputs} on {count} rows", sides, rounds, device)
    return rows


def report(case: str, sides: Mapping[str, Callable[[], Tensor]], rounds: int, device: torch.device) -> list[Row]:
    """Runs the sides in turn; prints a row for each with its time and its distance from panbench's output."""

    def seconds(side: Callable[[], Tensor]) -> float:
        begin = now(device)
        side()
        return now(device) - begin

    answers = {name: side() for name, side in sides.items()}
    spent = turns({name: functools.partial(seconds, side) for name, side in sides.items()}, rounds)
    return [
        {
            "case": case if name == "panbench" else "…",
            "side": name,
            "ms": f"{1e3 * min(spent[name]):.1f}",
            **compared(spent[name], spent["panbench"], "× panbench's"),
            "difference": "" if name == "panbench" else difference(answers["panbench"], answers[name]),
        }
        for name in sides
    ]


def difference(ours: Tensor, theirs: Tensor) -> str:
    """Returns the distance of two outputs, as a word or a number."""
    if not ours.is_floating_point():
        return "same boxes" if torch.equal(ours.sort().values, theirs.sort().values) else "OTHER BOXES"
    return f"{(ours - theirs).abs().max().item():.1e}"


def mmcv_roi_align(forward: Callable[..., None], features: Tensor, rois: Tensor, size: int) -> Tensor:
    """Calls an operator with the signature of mmcv's roi_align_forward."""
    output = features.new_zeros((len(rois), features.shape[1], size, size))
    unused = features.new_zeros(0)
    forward(features, rois, output, unused, unused, size, size, SCALE, 0, 1, True)
    return output


def random_rois(count: int, smallest: float, largest: float, device: torch.device) -> Tensor:
    """Returns (count, 5) random boxes on image 0, clipped to it."""
    image = torch.tensor([WIDTH / SCALE, HEIGHT / SCALE], device=device)
    extent = smallest * (largest / smallest) ** torch.rand(count, 2, device=device)
    centre = torch.rand(count, 2, device=device) * image
    corners = torch.cat([centre - extent / 2, centre + extent / 2], 1)
    return torch.cat([corners.new_zeros(count, 1), corners.clamp(min=0).minimum(image.repeat(2))], 1)


def peak(device: torch.device) -> int:
    """Returns the peak memory so far, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(host_peak() * 1e6)


def now(device: torch.device) -> float:
    """Returns wall-clock seconds after synchronizing the device, or CPU seconds of the process."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def load_torchvision() -> Any:
    """Returns torchvision's operators; None if they do not load."""
    try:
        importlib.import_module("torchvision")
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        print(f"torchvision: not measured ({type(error).__name__})")
        return None
    return torch.ops.torchvision


def build_kernels() -> Any:
    """Compiles mmcv's nms and RoIAlign for the CPU from the C++ in mmcv's wheel."""
    source = Path(importlib.import_module("mmcv").__file__ or "").parent / "ops" / "csrc"
    libraries = Path(torch.__file__).parent
    includes = [source / "common", libraries / "include", libraries / "include/torch/csrc/api/include"]
    with tempfile.TemporaryDirectory(prefix="mmcv_kernels_") as folder:
        bindings = Path(folder) / "bindings.cpp"
        bindings.write_text(BINDINGS)
        sources = [bindings, source / "pytorch/cpu/nms.cpp", source / "pytorch/cpu/roi_align.cpp"]
        subprocess.run(
            ["g++", "-O3", "-std=c++20", "-fPIC", "-shared", "-w", "-DTORCH_EXTENSION_NAME=mmcv_kernels"]
            + [f"-I{path}" for path in [*includes, sysconfig.get_paths()["include"]]]
            + [str(path) for path in sources]
            + [f"-L{libraries / 'lib'}", f"-Wl,-rpath,{libraries / 'lib'}"]
            + ["-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10", "-o", f"{folder}/mmcv_kernels.so"],
            check=True,
        )
        sys.path.append(folder)
        return importlib.import_module("mmcv_kernels")


if __name__ == "__main__":
    main()
