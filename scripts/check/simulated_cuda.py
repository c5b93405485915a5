"""Counts the kernels and the waits of a batch on a CUDA device that the CPU plays; no GPU is needed.

    python scripts/check/simulated_cuda.py --model mask2former-r50,maskformer-r50,panoptic-fpn-r50-1x --batch 1,8

Tensors "on cuda:0" are wrappers around values on the host. They refuse to be mixed with tensors of the host, as CUDA
does, and every operation on them is a kernel, or a wait where CUDA would hold up the thread that feeds it: `.item()`,
`nonzero`, masks as indices, copies that block. The numbers are those of the CPU, so the code runs as it will. What it
cannot show: times, streams, memory, half precision, compiled kernels.

`--device cuda` needs PyTorch's CUDA build, whose wheel has the device's bookkeeping (pip install torch==2.13.0, several
GB), in an environment of its own. `--device meta` plays a device without a name on any build, for the tests; what
panbench does for CUDA alone (pinned memory, channels-last) it does not show. Waits of planted segments are left out.
"""

import argparse
import collections
import contextlib
import functools
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Wrapped tensors are made under no_grad; inference tensors cannot be.
torch.inference_mode = lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()  # type: ignore

DEVICE = torch.device("cuda:0")

# Answers whose shape or value the host needs before it can go on.
WAITING = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
# No kernel: only shape and strides change.
VIEWS = set(
    "_reshape_alias _unsafe_view alias as_strided detach diagonal expand lift_fresh permute select slice split "
    "split_with_sizes squeeze t transpose unbind unfold unsqueeze view".split()
)

kernels: collections.Counter[str] = collections.Counter()
waits: collections.Counter[tuple[str, str]] = collections.Counter()
_pinned: set[int] = set()


class Simulated(Tensor):
    """A tensor that says that it is on the device; `values` are on the host."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    values: Tensor  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor) -> "Simulated":
        """Wraps values with their shape, strides and type."""
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.values = values
        return made  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Simulated({self.dtype}, {tuple(self.shape)})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refuses, as CUDA does."""
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self) -> Any:
        """The values; a wait."""
        wait("tolist")
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        """Runs an operation that has at least one simulated tensor."""
        return dispatch(function, arguments, named or {})


class Simulation(TorchDispatchMode):
    """While entered, what is made on the device is a simulated tensor."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        """Runs any operation."""
        return dispatch(function, arguments, named or {})


def dispatch(function: Any, arguments: Any, named: dict[str, Any]) -> Any:
    """Runs an operation on the host's values, and counts what it would be on a device."""
    name = function._schema.name.split("::")[1]
    tensors: list[Tensor] = []
    plain_arguments, plain_named = mapped(lambda each: _on_host(each, tensors), (arguments, named))
    on_device = [each for each in tensors if isinstance(each, Simulated)]
    on_host = [each for each in tensors if not isinstance(each, Simulated)]
    asked = named.get("device")
    to_device = asked is not None and torch.device(asked).type == DEVICE.type
    pinned = bool(plain_named.pop("pin_memory", None))
    if to_device:
        plain_named["device"] = torch.device("cpu")

    def run() -> Any:
        return function(*plain_arguments, **plain_named)

    if name == "_to_copy" and on_device and asked is not None and not to_device:
        wait("copy to the host")
        return run().clone()
    if name == "_to_copy" and on_host and to_device:
        if named.get("non_blocking"):
            kernels["copy to the device"] += 1
        else:
            wait("copy to the device")
        return Simulated(run().clone())
    if name == "copy_" and isinstance(arguments[0], Simulated) != isinstance(arguments[1], Simulated):
        queued = (len(arguments) > 2 and arguments[2]) or named.get("non_blocking")
        if isinstance(arguments[1], Simulated):  # to memory that is not pinned the driver copies at once
            queued = queued and arguments[0].untyped_storage().data_ptr() in _pinned
        if queued:
            kernels["copy"] += 1
        else:
            wait("copy")
        run()
        return arguments[0]
    if not on_device and not to_device:
        made = run()
        if pinned:
            _pinned.add(made.untyped_storage().data_ptr())
        return made
    indexed = name.startswith(("index", "_index"))
    strangers = [each for each in on_host if each.dim() > 0]
    if on_device and strangers:
        if not (indexed and isinstance(arguments[0], Simulated)):
            raise RuntimeError(
                f"{name} mixes {DEVICE} and cpu {[tuple(each.shape) for each in strangers]} at {place(4)}"
            )
        wait("index from the host")
    if name in WAITING:
        wait(name)
    elif indexed and any(
        isinstance(each, Simulated) and each.dtype in (torch.bool, torch.uint8) for each in tensors[1:]
    ):
        wait("mask as an index")
    elif name not in VIEWS:
        kernels[name] += 1
    made = run()
    if name in ("equal", "is_nonzero", "_local_scalar_dense"):
        return made
    if "out" in named:
        return named["out"]
    if function._schema.is_mutable and name.endswith("_") and not name.endswith("__"):
        return arguments[0]
    known = {id(each.values): each for each in on_device}
    return mapped(lambda each: _on_device(each, known), made)


def mapped(change: Callable[[Tensor], Tensor], values: Any) -> Any:
    """The values with each tensor changed. PyTorch's tree_map takes any class and half of this program's time."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, (tuple, list)):
        return type(values)([mapped(change, each) for each in values])
    if isinstance(values, dict):
        return {key: mapped(change, each) for key, each in values.items()}
    return values


def _on_host(tensor: Tensor, seen: list[Tensor]) -> Tensor:
    seen.append(tensor)
    return tensor.values if isinstance(tensor, Simulated) else tensor


def _on_device(tensor: Tensor, known: dict[int, Simulated]) -> Simulated:
    same = known.get(id(tensor))
    return Simulated(tensor) if same is None else same


def wait(kind: str) -> None:
    """Counts a wait at the place that is running; those of planted segments are no part of a model."""
    frames = traceback.extract_stack(limit=60)
    if not any(frame.filename.endswith("/synthetic.py") for frame in frames):
        waits[kind, place()] += 1


def place(depth: int = 2) -> str:
    """The innermost lines of panbench and of the libraries under it that are running."""
    found = []
    for frame in reversed(traceback.extract_stack(limit=60)):
        for package in ("panbench", "mmdet", "mmcv", "mmengine", "transformers"):
            if f"/{package}/" in frame.filename:
                found.append(f"{package}/{frame.filename.rpartition(f'/{package}/')[2]}:{frame.lineno}")
                break
        if len(found) == depth:
            break
    return " < ".join(found)


class _Event:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 0.0


@functools.cache
def install() -> None:
    """Makes torch believe in the device, and modules move there. A second call does nothing."""
    torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
    if DEVICE.type == "cuda":
        _install_cuda()
    else:
        torch.autocast = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment,misc]
        importlib.import_module("torch.distributed.optim")  # scripts functions, which must see the originals
        _make_by_copying("tensor")
        _make_by_copying("as_tensor")
    _move_modules()


def _install_cuda() -> None:
    torch._C._ensureCUDADeviceGuardSet()
    torch.backends.cudnn.enabled = False  # its operators exist for CUDA alone
    answers: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "current_stream": lambda *_: None,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda *_: "simulated",
        "get_device_capability": lambda *_: (9, 0),
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "is_bf16_supported": lambda *_, **__: True,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda *_: None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    torch.cuda.Event = _Event  # type: ignore[assignment,misc]
    torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign,assignment]


def _make_by_copying(name: str) -> None:
    """Values from Python are made on the host and copied, as for CUDA; for "meta" PyTorch would forget them."""
    original = getattr(torch, name)

    def made(*arguments: Any, device: Any = None, **named: Any) -> Tensor:
        found: Tensor = original(*arguments, **named)
        return found if device is None else found.to(device)

    setattr(torch, name, made)


def _move_modules() -> None:
    moved = torch.nn.Module.to

    def to(module: torch.nn.Module, *arguments: Any, **named: Any) -> torch.nn.Module:
        device = torch._C._nn._parse_to(*arguments, **named)[0]
        if device is None or device.type != DEVICE.type:
            return moved(module, *arguments, **named)
        for part in module.modules():
            for key, parameter in part._parameters.items():
                if parameter is not None and not isinstance(parameter.data, Simulated):
                    part._parameters[key] = torch.nn.Parameter(Simulated(parameter.data), requires_grad=False)
            for key, buffer in part._buffers.items():
                if buffer is not None and not isinstance(buffer, Simulated):
                    part._buffers[key] = Simulated(buffer)
        return module

    torch.nn.Module.to = to  # type: ignore[method-assign,assignment]


@contextlib.contextmanager
def simulation() -> Iterator[None]:
    """The device; counts begin at 0."""
    kernels.clear()
    waits.clear()
    with Simulation():
        yield


def opened(name: str, weights: str, plant: int, precision: str) -> Any:
    """A model on the device; the simulation must be running."""
    from panbench.catalog import find_model
    from panbench.models.opening import open_model
    from scripts.make import tiny_networks

    model: Any
    if name in tiny_networks.SPECS:
        model = tiny_networks.open_tiny(name, DEVICE, precision=precision)
    else:
        model = open_model(find_model(name), weights=weights, device=DEVICE, precision=precision)
    if plant:
        model.plant_segments(plant)
    return model


def measure(name: str, model: Any, batch: int, size: tuple[int, int]) -> dict[str, Any]:
    """Kernels and waits of the second of two batches, from loaded images to fused maps on their way to the host."""
    from panbench.datasets.generated import generated_dataset
    from panbench.models.rules import fuse

    with simulation():
        with contextlib.redirect_stderr(sys.stderr):
            dataset = generated_dataset(model.class_names, model.isthing, size=size, count=batch)
        loaded = [model.load(scene) for scene in dataset.scenes]
        # The first batch fills what is kept for a shape.
        fuse(model.candidates(loaded), model.rule)
        kernels.clear()
        waits.clear()
        outputs = model.candidates(loaded)
        in_forward = sum(kernels.values()), sum(waits.values())
        fuse(outputs, model.rule)
    return {
        "model": name,
        "batch": batch,
        "kernels_forward": in_forward[0],
        "kernels_fusion": sum(kernels.values()) - in_forward[0],
        "waits": sum(waits.values()),
        "places": [[count, kind, where] for (kind, where), count in waits.most_common()],
        "operations": kernels.most_common(12),
    }


def main() -> None:
    """Prints a table, and the places of all waits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        default="mask2former-r50,maskformer-r50,panoptic-fpn-r50-1x",
        help="comma-separated; untrained: the tiny networks of scripts/make/tiny_networks.py",
    )
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--size", default="480x640")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--plant", type=int, default=15)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--places", action="store_true", help="also where the waits are")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "meta"])
    options = parser.parse_args()
    global DEVICE
    DEVICE = torch.device(options.device, 0) if options.device == "cuda" else torch.device(options.device)
    height, width = (int(side) for side in options.size.split("x"))
    install()
    from scripts.make import tiny_networks

    found = []
    print(
        f"torch {torch.__version__}; {options.size}, weights {options.weights}, {options.plant} planted, "
        f"{options.precision}"
    )
    print(
        "| model | images a batch | kernels, forward | kernels, fusion | waits |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name in tiny_networks.SPECS if options.model == "untrained" else options.model.split(","):
        with simulation():
            model = opened(name, options.weights, options.plant, options.precision)
        for batch in (int(each) for each in options.batch.split(",")):
            row = measure(name, model, batch, (height, width))
            found.append(row)
            print(
                f"| {name} | {batch} | {row['kernels_forward']:,} | {row['kernels_fusion']:,} | {row['waits']} |",
                flush=True,
            )
            if options.places:
                for count, kind, where in row["places"]:
                    print(f"    {count:4d}  {kind:24s} {where}")
                print("    ", row["operations"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
