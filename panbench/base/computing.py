"""What computing can be asked for by name, known without PyTorch."""

import importlib.metadata
import sys

from panbench.base.errors import BadArgument

__all__ = [
    "COMPILED",
    "DEVICES",
    "PRECISIONS",
    "REDUCED",
    "STAGES",
    "check_device_name",
    "check_precision_name",
    "refuse_device",
    "split_precision",
]

DEVICES = ("auto", "cpu", "cuda", "mps")
"""auto is CUDA where there is a GPU, else the CPU; cuda:1 is the second GPU."""

PRECISIONS = ("fp32", "ieee", "tf32", "bf16", "fp16")
"""fp32: as PyTorch comes and mmdet runs, with TF32 in CUDA's convolutions; ieee: without; tf32: also in products."""

REDUCED = ("bf16", "fp16", "tf32")
"""Precisions that round more than the one in which results are published."""

STAGES = ("load", "forward", "fusion", "overlap", "write")
"""What an evaluation does with an image, in this order; run.json and `bench` have the seconds of each."""

COMPILED = "+compile"
"""Behind a precision: the backbone is compiled by torch.compile."""


def check_device_name(name: str) -> str:
    """The name of a device as `--device` takes it. Raises BadArgument for one that no machine has."""
    kind, _, index = name.partition(":")
    if name != "auto" and (kind not in DEVICES[1:] or (index and not index.isdigit())):
        raise BadArgument(f"--device {name} is unknown; it is auto, cpu, cuda, cuda:N or mps.")
    return name


def refuse_device(name: str) -> None:
    """Raises BadArgument where the installed PyTorch, by its version alone, cannot have a device."""
    if name.partition(":")[0] != "cuda" or "torch" in sys.modules:
        return  # once PyTorch is loaded it is asked itself
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return
    if version.endswith("+cpu"):
        raise BadArgument(
            f"--device {name}: this PyTorch has no CUDA. Use --device cpu, or install a CUDA build of PyTorch."
        )


def check_precision_name(name: str) -> str:
    """The name of a precision as `--precision` takes it. Raises BadArgument for an unknown one."""
    if name not in PRECISIONS:
        raise BadArgument(f"--precision {name} is unknown; it is one of {', '.join(PRECISIONS)}.")
    return name


def split_precision(text: str) -> tuple[str, bool]:
    """The precision of `bf16` or `bf16+compile`, and whether to compile. Raises BadArgument for an unknown one."""
    name = text.removesuffix(COMPILED)
    if "+" in name:
        raise BadArgument(
            f"--precision {text} is unknown: behind the + stands compile, as in {name.partition('+')[0]}{COMPILED}."
        )
    return check_precision_name(name), name != text
