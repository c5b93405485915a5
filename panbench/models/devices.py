"""Devices and precisions: what a machine has, and how a forward pass computes on it."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn

from panbench.base.computing import check_device_name, check_precision_name
from panbench.base.errors import BadArgument

__all__ = [
    "AUTOCAST",
    "HEAVY_PARAMETERS",
    "check_precision",
    "choose_device",
    "keep_as_autocast_has_them",
    "lower_precision",
    "memory_errors",
    "one_thread",
    "says_out_of_memory",
    "tf32_as",
]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TF32 = {"ieee": (False, False), "tf32": (True, True)}
"""Whether CUDA's convolutions and its matrix products may use TF32; for the others PyTorch's default, (True, False)."""


HEAVY_PARAMETERS = 20_000_000
"""A network of so many is heavy: its products take most of the time, and keep all cores of a CPU busy."""

_OF_BF16 = (8, 0)
"""The compute capability from which cards have bf16 and TF32."""

_OUT_OF_MEMORY = re.compile(
    r"out of memory"  # torch's allocators, and CUDA where a kernel or a copy is launched
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUSOLVER_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_INTERNAL_ERROR_(?:DEVICE|HOST)_ALLOCATION_FAILED"
    r"|can't allocate memory|not enough memory: you tried to allocate",  # the CPU's allocator, on Linux and Windows
    re.IGNORECASE,
)


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory: libraries below PyTorch raise their own RuntimeError for it."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turns any out-of-memory error into torch.OutOfMemoryError, so that callers can try a smaller batch."""
    try:
        yield
    except RuntimeError as error:
        if says_out_of_memory(error) and not isinstance(error, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def choose_device(name: str) -> torch.device:
    """The device that `--device` names: auto (CUDA if there is one, else CPU), cpu, cuda, cuda:1, mps.

    Raises BadArgument for one that is not there, and for a card that this PyTorch has no kernels for.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = check_device_name(name).partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadArgument(f"--device {name}: {_why_no_card()}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise BadArgument(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadArgument("--device mps: this machine or this PyTorch has no Metal. Use --device cpu.")
    device = torch.device(name)
    _refuse_without_kernels(device)
    return device


def _why_no_card() -> str:
    if torch.version.cuda is not None:
        return "no CUDA device is found. Use --device cpu."
    if torch.version.hip is not None:
        return f"this PyTorch is built for ROCm {torch.version.hip} and finds no card. Use --device cpu."
    return "this PyTorch has no CUDA. Use --device cpu, or install a CUDA build of PyTorch."


def _capability(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of an NVIDIA card; None for every other device."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def _refuse_without_kernels(device: torch.device) -> None:
    """Raises BadArgument where PyTorch was built without code for the card: its first kernel would fail."""
    own = _capability(device)
    built = [] if own is None else torch.cuda.get_arch_list()
    if own is None or not built or any(_runs(arch, own) for arch in built):
        return
    raise BadArgument(
        f"{torch.cuda.get_device_name(device)} has compute capability {own[0]}.{own[1]}, for which this PyTorch "
        f"{torch.__version__} has no kernels (it has {', '.join(built)}). Use --device cpu, or install a build of "
        "PyTorch for an older CUDA."
    )


def _runs(arch: str, own: tuple[int, int]) -> bool:
    """Whether code for `sm_75` or `compute_90` runs on a card: of its major version, or translated by the driver."""
    kind, _, number = arch.partition("_")
    version = divmod(int("".join(sign for sign in number if sign.isdigit())), 10)
    return version <= own and (kind == "compute" or version[0] == own[0])


def lower_precision(device: torch.device) -> str:
    """The half precision that a device computes in: bf16, or fp16 on cards before compute capability 8.0."""
    own = _capability(device)
    return "fp16" if own is not None and own < _OF_BF16 else "bf16"


def check_precision(precision: str, device: torch.device) -> None:
    """Raises BadArgument for a precision that is unknown or that the device does not have."""
    check_precision_name(precision)
    if precision == "tf32" and device.type != "cuda":
        raise BadArgument(f"--precision tf32 needs a CUDA device; this run is on {device}.")
    own = _capability(device)
    if precision in ("bf16", "tf32") and own is not None and own < _OF_BF16:
        raise BadArgument(
            f"--precision {precision} needs compute capability 8.0, and {torch.cuda.get_device_name(device)} has "
            f"{own[0]}.{own[1]}: it would emulate it, or fail. Use --precision fp16."
        )


@contextlib.contextmanager
def tf32_as(precision: str) -> Iterator[None]:
    """TF32 on CUDA as a precision has it; afterwards the process's own settings are back.

    PyTorch 2.9 and later have two ways to say it: `allow_tf32`, and `fp32_precision` for each kind of operator. Reading
    the older one raises RuntimeError once the newer one has said otherwise, so both are set alike here.
    """
    convolutions, products = _TF32.get(precision, (True, False))
    restores = [_set(torch.backends.cudnn, ("conv", "rnn"), convolutions), _set(torch.backends.cuda, (), products)]
    try:
        yield
    finally:
        for restore in restores:
            restore()


def _set(backend: Any, kinds: tuple[str, ...], allowed: bool) -> Callable[[], None]:
    """Allows or forbids TF32 for a backend, by both of PyTorch's ways alike; what is returned undoes it."""
    older = backend if kinds else backend.matmul
    found: list[Any] = [getattr(backend, kind, None) for kind in kinds] if kinds else [older]
    newer = [each for each in found if hasattr(each, "fp32_precision")]
    before = [each.fp32_precision for each in newer]
    older_before = _read(older, before)

    def restore() -> None:
        older.allow_tf32 = older_before
        for each, value in zip(newer, before, strict=True):
            # "none" inherits from a more general setting, and reads as that one: keep it where it says the same.
            each.fp32_precision = "none"
            if each.fp32_precision != value:
                each.fp32_precision = value

    older.allow_tf32 = allowed
    for each in newer:
        each.fp32_precision = "tf32" if allowed else "ieee"
    return restore


def _read(older: Any, newer: list[str]) -> bool:
    """`allow_tf32`; inferred where the newer setting makes it unreadable."""
    try:
        return cast(bool, older.allow_tf32)
    except RuntimeError:
        return not all(value == "tf32" for value in newer)


def keep_as_autocast_has_them(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts, in place, the weights that torch.autocast would cast in every forward pass."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            names = ["weight", "bias"]
        elif isinstance(part, nn.MultiheadAttention):
            names = ["in_proj_weight", "in_proj_bias"]
        else:
            continue
        for name in names:
            parameter = getattr(part, name, None)
            if isinstance(parameter, nn.Parameter):
                parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs PyTorch's operations on the thread that calls them; the number of threads is given back.

    For many small operations in a row, and where threads of ours have work of their own each: shared out, each saves
    little and costs much on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
