"""Devices and precisions: what a machine has, and how a forward pass computes on it."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn

from panbench.base.computing import check_device_name, check_precision_name
from panbench.base.errors import BadArgument

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TF32 = {"ieee": (False, False), "tf32": (True, True)}
"""Whether CUDA convolutions and matrix products may use TF32; other precisions have PyTorch's default, (True,
False)."""


HEAVY_PARAMETERS = 20_000_000
"""From this size on, matrix products take most of the time and keep all cores of a CPU busy."""

_BF16_CAPABILITY = (8, 0)
"""The compute capability from which cards have bf16 and TF32."""

_OUT_OF_MEMORY = re.compile(
    r"out of memory"  # torch's allocators, and CUDA where a kernel or a copy is launched
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUSOLVER_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_INTERNAL_ERROR_(?:DEVICE|HOST)_ALLOCATION_FAILED"
    r"|can't allocate memory|not enough memory: you tried to allocate",  # the CPU's allocator, on Linux and Windows
    re.IGNORECASE,
)


def says_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means out of memory; libraries below PyTorch raise a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turns any out-of-memory error within the block into torch.OutOfMemoryError; callers then try a smaller batch."""
    try:
        yield
    except RuntimeError as error:
        if says_out_of_memory(error) and not isinstance(error, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def choose_device(name: str) -> torch.device:
    """Returns the device that `--device` names: auto (CUDA if there is one, else CPU), cpu, cuda, cuda:1, mps.

    Raises BadArgument for a missing device, and for a card that this PyTorch has no kernels for.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = check_device_name(name).partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadArgument(f"--device {name}: {_no_cuda_reason()}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise BadArgument(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadArgument("--device mps: this machine or this PyTorch has no Metal. Use --device cpu.")
    device = torch.device(name)
    _refuse_without_kernels(device)
    return device


def _no_cuda_reason() -> str:
    """Returns why `--device cuda` is impossible and what to do."""
    if torch.version.cuda is not None:
        return "no CUDA device is found. Use --device cpu."
    if torch.version.hip is not None:
        return f"this PyTorch is built for ROCm {torch.version.hip} and finds no card. Use --device cpu."
    return "this PyTorch has no CUDA. Use --device cpu, or install a CUDA build of PyTorch."


def _compute_capability(device: torch.device) -> tuple[int, int] | None:
    """Returns the compute capability of an NVIDIA card; None for every other device."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def _refuse_without_kernels(device: torch.device) -> None:
    """Raises BadArgument if PyTorch was built without kernels for the card."""
    own = _compute_capability(device)
    built = [] if own is None else torch.cuda.get_arch_list()
    if own is None or not built or any(_supports_card(arch, own) for arch in built):
        return
    raise BadArgument(
        f"{torch.cuda.get_device_name(device)} has compute capability {own[0]}.{own[1]}, for which this PyTorch "
        f"{torch.__version__} has no kernels (it has {', '.join(built)}). Use --device cpu, or install a build of "
        "PyTorch for an older CUDA."
    )


def _supports_card(arch: str, own: tuple[int, int]) -> bool:
    """Returns whether a PyTorch built for `arch`, such as `sm_75` or `compute_90`, has kernels for a card.

    `sm_75` needs a card of the same major version; `compute_90` is compiled by the driver.
    """
    kind, _, number = arch.partition("_")
    version = divmod(int("".join(sign for sign in number if sign.isdigit())), 10)
    return version <= own and (kind == "compute" or version[0] == own[0])


def lower_precision(device: torch.device) -> str:
    """Returns the half precision that a device computes in: bf16, or fp16 on cards before compute capability 8.0."""
    own = _compute_capability(device)
    return "fp16" if own is not None and own < _BF16_CAPABILITY else "bf16"


def check_precision(precision: str, device: torch.device) -> None:
    """Raises BadArgument for an unknown precision, and for one that the device does not have."""
    check_precision_name(precision)
    if precision == "tf32" and device.type != "cuda":
        raise BadArgument(f"--precision tf32 needs a CUDA device; this run is on {device}.")
    own = _compute_capability(device)
    if precision in ("bf16", "tf32") and own is not None and own < _BF16_CAPABILITY:
        raise BadArgument(
            f"--precision {precision} needs compute capability 8.0, and {torch.cuda.get_device_name(device)} has "
            f"{own[0]}.{own[1]}: it would emulate it, or fail. Use --precision fp16."
        )


@contextlib.contextmanager
def tf32_as(precision: str) -> Iterator[None]:
    """Allows TF32 on CUDA within the block as a precision demands, and restores the process's settings afterwards.

    PyTorch 2.9 and later have two settings for it: `allow_tf32`, and `fp32_precision` for each kind of operator.
    Reading the older one raises RuntimeError once the newer one has been set, so both are set alike here.
    """
    convolutions, products = _TF32.get(precision, (True, False))
    restores = [
        _set_tf32(torch.backends.cudnn, ("conv", "rnn"), convolutions),
        _set_tf32(torch.backends.cuda, (), products),
    ]
    try:
        yield
    finally:
        for restore in restores:
            restore()


def _set_tf32(backend: Any, kinds: tuple[str, ...], allowed: bool) -> Callable[[], None]:
    """Allows or forbids TF32 for cuDNN or for cuBLAS; returns a function that restores the former settings.

    PyTorch has an older and a newer setting; both are set.
    """
    older = backend if kinds else backend.matmul
    found: list[Any] = [getattr(backend, kind, None) for kind in kinds] if kinds else [older]
    newer = [each for each in found if hasattr(each, "fp32_precision")]
    before = [each.fp32_precision for each in newer]
    older_before = _read_tf32(older, before)

    def restore_tf32() -> None:
        """Sets the older and newer TF32 settings back to their former values."""
        older.allow_tf32 = older_before
        for each, value in zip(newer, before, strict=True):
            # "none" inherits from a more general setting, and reads as that one: keep it where it says the same.
            each.fp32_precision = "none"
            if each.fp32_precision != value:
                each.fp32_precision = value

    older.allow_tf32 = allowed
    for each in newer:
        each.fp32_precision = "tf32" if allowed else "ieee"
    return restore_tf32


def _read_tf32(older: Any, newer: list[str]) -> bool:
    """Returns the older setting `allow_tf32`; from the newer one where PyTorch refuses to read the older."""
    try:
        return cast(bool, older.allow_tf32)
    except RuntimeError:
        return not all(value == "tf32" for value in newer)


def cast_weights_for_autocast(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts to half precision, in place, the weights that torch.autocast would otherwise cast in every forward pass."""
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
    """Limits PyTorch's operations to the calling thread within the block.

    For many small operations, and for pools whose threads each have work of their own: splitting such operations gains
    little and costs much on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
