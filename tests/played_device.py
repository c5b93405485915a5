"""Counts the waits of a batch on a device that the CPU plays; a program of its own (tests/models/test_async_device.py).

Tensors on the device are wrappers around values on the host. They refuse to be mixed with tensors of the host, as
CUDA's do, and where CUDA would hold up the thread that feeds it is a wait: `.item()`, `nonzero`, masks as indices,
copies that block. The numbers are those of the CPU, so the code runs as it will. What panbench does for CUDA alone
(channels-last) is not played. Waits of planted segments are left out.

    python tests/played_device.py < JOBS      JOBS: a JSON list of [model, weights, planted segments, [batch sizes]]

It prints a JSON list of {"model", "batch", "waits", "places"}.
"""

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Wrapped tensors are made under no_grad; inference tensors cannot be.
torch.inference_mode = lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()  # type: ignore

DEVICE = torch.device("meta")
SIZE = (96, 128)

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
    """Runs an operation on the host's values, and counts where a device would be waited for."""
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
        if not named.get("non_blocking"):
            wait("copy to the device")
        return Simulated(run().clone())
    if name == "copy_" and isinstance(arguments[0], Simulated) != isinstance(arguments[1], Simulated):
        queued = (len(arguments) > 2 and arguments[2]) or named.get("non_blocking")
        if isinstance(arguments[1], Simulated):  # to memory that is not pinned the driver copies at once
            queued = queued and arguments[0].untyped_storage().data_ptr() in _pinned
        if not queued:
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


@functools.cache
def install() -> None:
    """Makes torch believe in the device, and modules move there. A second call does nothing."""
    torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
    torch.autocast = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment,misc]
    importlib.import_module("torch.distributed.optim")  # scripts functions, which must see the originals
    _make_by_copying("tensor")
    _make_by_copying("as_tensor")
    _move_modules()


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
    waits.clear()
    with Simulation():
        yield


def opened(name: str, weights: str, plant: int) -> Any:
    """A model on the device; the simulation must be running."""
    from panbench.catalog import find_model
    from panbench.models.opening import open_model
    from scripts.make import tiny_networks

    model: Any
    if name in tiny_networks.SPECS:
        model = tiny_networks.open_tiny(name, DEVICE)
    else:
        model = open_model(find_model(name), weights=weights, device=DEVICE)
    if plant:
        model.plant_segments(plant)
    return model


def measure(name: str, model: Any, batch: int) -> dict[str, Any]:
    """Waits of the second of two batches, from loaded images to fused maps on their way to the host."""
    from panbench.datasets.generated import generated_dataset
    from panbench.models.rules import fuse

    with simulation():
        dataset = generated_dataset(model.class_names, model.isthing, size=SIZE, count=batch)
        loaded = [model.load(scene) for scene in dataset.scenes]
        # The first batch fills what is kept for a shape.
        fuse(model.candidates(loaded), model.rule)
        waits.clear()
        fuse(model.candidates(loaded), model.rule)
    places = [[count, kind, where] for (kind, where), count in waits.most_common()]
    return {"model": name, "batch": batch, "waits": sum(waits.values()), "places": places}


def main() -> None:
    """Counts what standard input asks for."""
    install()
    found = []
    for name, weights, plant, batches in json.load(sys.stdin):
        with simulation():
            model = opened(name, weights, plant)
        found += [measure(name, model, batch) for batch in batches]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
