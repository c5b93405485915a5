"""Checks the names of devices and precisions without importing PyTorch."""

import importlib.metadata
import sys

from panbench.base.errors import BadArgument
from panbench.base.studies import names_in_studies

DEVICES = ("auto", "cpu", "cuda", "mps")
"""auto uses CUDA if there is a GPU, else the CPU; cuda:1 is the second GPU."""

PRECISIONS = ("fp32", "ieee", "tf32", "bf16", "fp16")
"""fp32: PyTorch's default, with TF32 in CUDA's convolutions; ieee: without TF32; tf32: TF32 in matrix products too."""

REDUCED = ("bf16", "fp16", "tf32")
"""Precisions that round more than fp32, in which results are published."""

STAGES = ("load", "forward", "fusion", "overlap", "write")
"""The stages of an evaluation, in order; run.json and `bench` report the seconds of each."""

COMPILE = "compile"
"""The name after the + of a precision that compiles the backbone with torch.compile. Studies add other names."""


def check_device_name(name: str) -> str:
    """Returns a device name unchanged if `--device` accepts it. Raises BadArgument for an unknown one."""
    kind, _, index = name.partition(":")
    if name != "auto" and (kind not in DEVICES[1:] or (index and not index.isdigit())):
        raise BadArgument(f"--device {name} is unknown; it is auto, cpu, cuda, cuda:N or mps.")
    return name


def refuse_device(name: str) -> None:
    """Raises BadArgument if the installed PyTorch, judged by its version alone, cannot support a device."""
    if name.partition(":")[0] != "cuda" or "torch" in sys.modules:
        return  # once PyTorch is loaded, it can answer itself
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return
    if version.endswith("+cpu"):
        raise BadArgument(
            f"--device {name}: this PyTorch has no CUDA. Use --device cpu, or install a CUDA build of PyTorch."
        )


def check_precision_name(name: str) -> str:
    """Returns a precision's name unchanged if `--precision` accepts it. Raises BadArgument for an unknown one."""
    if name not in PRECISIONS:
        raise BadArgument(f"--precision {name} is unknown; it is one of {', '.join(PRECISIONS)}.")
    return name


def runtimes() -> tuple[str, ...]:
    """Returns the ways to run a network that `--precision` accepts after a +, such as `compile`."""
    return (COMPILE, *names_in_studies("runtimes"))


def split_precision(text: str) -> tuple[str, str | None]:
    """Splits `bf16+compile` into precision and runtime; the runtime is None for `bf16`. Raises BadArgument."""
    name, plus, runtime = text.partition("+")
    if plus and runtime not in runtimes():
        raise BadArgument(
            f"--precision {text} is unknown: behind the + stands {' or '.join(runtimes())}, as in {name}+{COMPILE}."
        )
    return check_precision_name(name), runtime or None
