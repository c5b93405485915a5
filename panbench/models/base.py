"""What a model is to the rest of panbench, what the author of a family writes, and the one place that opens models.

    model = open_model(find_model("mask2former-tiny"))
    outputs = model.candidates([model.load(scene)])      # Candidates, Instances or a FinishedMap, one an image
    fused = fuse(outputs, model.rule)                     # panbench.models.rules

A family of networks is an `Adapter`: how to build the module, how to bring an image to it, how to read its answer. The
`HostedModel` around it gives every family devices, precision, pinned memory, checks for NaN, strict and safe loading of
weights, and the record that goes into run.json. Anything else that has the members of `Model` is a model as well.
"""

import contextlib
import copy
import dataclasses
import hashlib
import importlib
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from panbench.base.errors import BadArgument, BadDataset, BadModel
from panbench.base.heap import keep_freed_memory
from panbench.base.reporter import SILENT, Reporter, counter
from panbench.catalog import ModelSpec, with_weights
from panbench.models import synthetic
from panbench.models.attention import Attention, attended_queries
from panbench.models.candidates import Candidates, Frame, Instances, NonFiniteOutput, Output, check_classes
from panbench.models.checkpoints import Checkpoint, apply_checkpoint, fetch_weights, load_checkpoint
from panbench.models.feeding import constant, upload
from panbench.models.rules import Rule
from panbench.panoptic.photo import PhotoFacts, read_photo
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import ModelRecord

PRECISIONS = ("fp32", "ieee", "tf32", "bf16", "fp16")
"""fp32: as PyTorch comes and mmdet runs, with TF32 in CUDA's convolutions; ieee: without; tf32: also in products."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TF32 = {"ieee": (False, False), "tf32": (True, True)}
"""Whether CUDA's convolutions and its matrix products may use TF32; for the others PyTorch's default, (True, False)."""


@dataclass(frozen=True)
class LoadedImage:
    """An image as the model takes it: `inputs` on the host, and whatever else its adapter needs to know of it.

    facts: what its file says of it, where the model read it by `read_photograph`; the run records that
    """

    scene: Scene
    inputs: Tensor
    sample: Any
    facts: PhotoFacts | None = None


class Model(Protocol):
    """What the evaluation needs of a model.

    A model may also have what `HostedModel` has: `precision`, `seed` and `compiled`, which are fp32, 0 and False where
    they are missing; `versions`, programs and what they run with; `batch_key`, without which a batch holds images of
    one size; `attend` and `plant_segments`.
    """

    spec: ModelSpec
    """Name, title, weights and published numbers; `spec.weights` are those that are loaded."""
    class_names: tuple[str, ...]
    """The category names in label order; () when the model's labels are the category ids of the dataset."""
    isthing: tuple[bool, ...]
    """For each label, whether it is a thing."""
    device: torch.device
    rule: Rule
    """The fusion rule of its paper, with the thresholds of its config."""

    def describe(self) -> ModelRecord:
        """What run.json says of the model."""
        ...

    def load(self, scene: Scene) -> LoadedImage:
        """Reads and resizes one image; safe to call from several threads. Raises BadDataset naming the file."""
        ...

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """What the model says of each image of a batch, on the device. Raises NonFiniteOutput."""
        ...


@dataclass(frozen=True)
class Resize:
    """How an image is brought to the network's size, and what is put around it."""

    short: int | None = None
    """The shorter side becomes this, as long as the longer does not exceed `long`; None leaves the size as it is."""
    long: int | None = None
    """What the longer side may be at most; None for no bound."""
    exact: tuple[int, int] | None = None
    """(height, width) whatever the image's proportions, in place of `short` and `long`."""
    way: Literal["cv2", "pil"] = "cv2"
    """Bilinear as OpenCV does it (mmdet), or with antialiasing as Pillow does (detectron2, DETR, Hugging Face)."""
    divisor: int = 1
    """Zeros are added at the right and at the bottom until both sides are multiples of this."""
    square: int | None = None
    """Zeros are added at the right and at the bottom until both sides are this long."""
    factor: float = 1.0
    """`short` and `long`, or the size as it is, times this: the scales of test-time augmentation."""

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of this size is resized to."""
        if self.exact is not None:
            return self.exact
        scale = 1.0 if self.short is None else self.short / min(height, width)
        if self.short is not None and self.long is not None:
            scale = min(scale, self.long / max(height, width))
        if (scale := scale * self.factor) == 1.0:
            return height, width
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) with the zeros."""
        if self.square is not None:
            return self.square, self.square
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor

    def apply(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The resized image, without the zeros."""
        height, width = self.size_of(*rgb.shape[:2])
        if (height, width) == rgb.shape[:2]:
            return rgb
        if self.way == "pil":
            return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
        return cast("npt.NDArray[np.uint8]", cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR))


class Adapter:
    """A family of networks: how one is built, fed and read.

    The author writes `build` and `candidates`, declares class names, things, rule, `resize`, `mean` and `std`, and
    where upstream's names of parameters differ `rename`. Everything else has a default. docs/models.md has a whole one.
    """

    class_names: tuple[str, ...] = ()
    isthing: tuple[bool, ...] = ()
    rule: Rule
    resize: Resize = Resize()
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    """Of red, green and blue, in 0–255: pixels become (pixel - mean) / std."""
    needs_weights: bool = True
    """False where `build` loads weights by itself, or there are none to load."""
    half_weights: bool = False
    """Whether autocast's copies of convolutions' and linear layers' weights may be kept in place of the originals, so
    that they are not made again for each batch: true where no code reads a weight but these layers themselves."""
    versions: Mapping[str, str] = {}
    """Programs and what they run with, beyond the packages that run.json names anyway."""

    @classmethod
    def check(cls, spec: ModelSpec) -> None:
        """Called before any weights are downloaded. Raises BadModel for what this machine lacks to run the family."""

    def __init__(self, spec: ModelSpec) -> None:
        """Reads what the config says; `spec.settings` is the config's own dict for the adapter."""
        self.spec = spec
        self.family = spec.family
        self.backbone = spec.backbone
        self.config_text = f"{spec.adapter} {sorted(spec.settings.items())}"

    def build(self) -> nn.Module:
        """The network in eval mode on the CPU, its parameters as its layers initialize them. Raises BadModel."""
        raise NotImplementedError

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A checkpoint's tensors under the names that the module has."""
        return state_dict

    def loaded(self, module: nn.Module, checkpoint: Checkpoint | None) -> None:
        """Called once the weights are in: an adapter that learns its categories from the checkpoint sets them here."""

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The same network, faster, with the same answers but for rounding; it is on its device already."""
        return module.requires_grad_(False)

    def prepare(self, rgb: npt.NDArray[np.uint8]) -> tuple[Tensor, Frame]:
        """(3, h, w) uint8 on the host and the frame, from an image (H, W, 3); by default as `resize` says."""
        small = self.resize.apply(rgb)
        size = (small.shape[0], small.shape[1])
        frame = Frame(self.resize.padded(*size), size, (rgb.shape[0], rgb.shape[1]))
        return torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))), frame

    def padded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """The (height, width) of the network's input for an image of this size; None where that is not known before.

        Images of one padded size share a batch: each then has the zeros around it that it has alone. An adapter with a
        `prepare` or `run` of its own says it here, else its batches hold images of one size.
        """
        if type(self).prepare is not Adapter.prepare or type(self).run is not Adapter.run:
            return None
        return self.resize.padded(*self.resize.size_of(height, width))

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> Sequence[Output]:
        """What the network says of each image: Candidates, Instances or a FinishedMap.

        pixels: (B, 3, H, W) float32 on the device, normalised and padded
        """
        raise NotImplementedError

    def scaled(self, factor: float) -> "Adapter":
        """The same family with images `factor` times as large. Raises BadArgument when it takes one size only."""
        if self.resize.exact is not None or self.resize.square is not None:
            raise BadArgument(f"{self.spec.title} takes images of one size only: it has no views of other scales.")
        other = copy.copy(self)
        other.resize = dataclasses.replace(self.resize, factor=self.resize.factor * factor)
        return other

    def mirrored(self, image: LoadedImage) -> LoadedImage:
        """The image as it would be loaded had it been mirrored left to right."""
        return dataclasses.replace(image, inputs=image.inputs.flip(-1))

    def read(self, scene: Scene) -> LoadedImage:
        """Decodes and prepares the image of a scene. Raises BadDataset."""
        rgb, facts = read_photograph(scene)
        inputs, frame = self.prepare(rgb)
        return LoadedImage(scene, inputs, frame, facts)

    def run(self, module: Any, batch: Sequence[LoadedImage], device: torch.device) -> Sequence[Output]:
        """Brings a batch of images of one padded size to the device, normalises it, and calls `candidates`."""
        return self.candidates(module, *self.batched(batch, device))

    def batched(self, batch: Sequence[LoadedImage], device: torch.device) -> tuple[Tensor, list[Frame]]:
        """(B, 3, H, W) normalised and padded pixels of images of one padded size, on the device, and their frames."""
        frames = [cast(Frame, image.sample) for image in batch]
        images = [image.inputs for image in batch]
        mean, std = constant((tuple(self.mean), tuple(self.std)), device)[..., None, None]
        return normalised(on_device(images, frames[0].padded, device), mean, std, sizes_of(images)), frames

    def attend(self, model: "HostedModel", scene: Scene, **wishes: Any) -> Any:
        """What queries looked at in an image, as panoptic.attention's records; wishes: of `attended_queries`."""
        with torch.inference_mode(), model.numerics():
            pixels, frames = self.batched([model.load(scene)], model.device)
            found = self.look(model.module, pixels, frames[0])
            return attended_queries(model, found, **wishes)

    def look(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """What each query of one image looked at in each layer; pixels: (1, 3, H, W). BadModel where there are none."""
        raise BadModel(
            f"{self.spec.title} shows no attention: panbench does not know where its queries look. Models of "
            "MaskFormer, Mask2Former, OneFormer, EoMT, DETR, Panoptic SegFormer and Mask DINO show theirs."
        )

    def plant_segments(self, module: nn.Module, count: int) -> Callable[[], None] | None:
        """Makes the heads answer with `count` segments, for timing untrained models; returns what undoes it.

        None where the adapter cannot: then the host replaces the candidates of the network by as many of its own.
        """
        return None


class HostedModel:
    """A model of any family, ready to run on one device: an adapter, its module, and all that families share."""

    def __init__(
        self,
        adapter: Adapter,
        module: nn.Module,
        *,
        device: torch.device,
        precision: str = "fp32",
        checkpoint: Checkpoint | None = None,
        seed: int = 0,
        random_weights: bool = False,
        speedups: bool = True,
    ) -> None:
        """Use `open_model`."""
        adapter.loaded(module, checkpoint)
        self.adapter = adapter
        self.spec = adapter.spec
        self.device = device
        self.precision = precision
        self.checkpoint = checkpoint
        self.seed = seed
        self.random_weights = random_weights
        self.compiled = False
        self.parameters = count_parameters(module)
        self.class_names, self.isthing, self.rule = adapter.class_names, adapter.isthing, adapter.rule
        if len(self.class_names) != len(self.isthing) or not self.class_names:
            raise BadModel(
                f"{self.spec.title}: its adapter {self.spec.adapter} names {len(self.class_names)} categories and says "
                f"of {len(self.isthing)} whether they are things. Set class_names and isthing, in label order."
            )
        placed = module.to(device).eval()
        self.module = adapter.speed_up(placed, device) if speedups else placed
        if speedups and adapter.half_weights and precision in _AUTOCAST:
            keep_as_autocast_has_them(self.module, _AUTOCAST[precision])
        self._planted: int | None = None

    @property
    def versions(self) -> Mapping[str, str]:
        """What run.json says of the programs that this model runs with."""
        return self.adapter.versions

    def describe(self) -> ModelRecord:
        """What run.json says of the model: what it is, its weights and their hash, its parameters."""
        spec, checkpoint = self.spec, self.checkpoint
        # What is published was measured with the published weights.
        return ModelRecord(
            name=spec.name,
            title=spec.title,
            family=self.adapter.family,
            backbone=self.adapter.backbone,
            adapter=spec.adapter,
            config=None if spec.config is None else str(spec.config),
            config_sha256=hashlib.sha256(self.adapter.config_text.encode()).hexdigest(),
            weights=None if checkpoint is None else str(checkpoint.path),
            weights_sha256=None if checkpoint is None else checkpoint.sha256,
            random_weights=self.random_weights,
            params=self.parameters,
            published=None if self.random_weights else spec.published,
        )

    def load(self, scene: Scene) -> LoadedImage:
        """Reads and resizes one image; safe to call from several threads. Raises BadDataset naming the file."""
        return self.adapter.read(scene)

    def batch_key(self, image: ImageInfo) -> Hashable:
        """Images of which this is equal may share a batch: the size of the network's input for them."""
        return self.adapter.padded_size(image.height, image.width) or (image.height, image.width, "as it is")

    @torch.inference_mode()
    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """What the model says of each image of a batch, on the device. Raises NonFiniteOutput, BadModel."""
        with self.numerics():
            try:
                outputs = self.adapter.run(self.module, batch, self.device)
            except Exception as error:
                if not _is_of_dynamo(error):
                    raise
                reason = str(error).strip().splitlines()[0]
                raise BadArgument(
                    f"--compile: torch.compile cannot compile the backbone here ({reason}). On a CPU it needs a C++ "
                    "compiler, on CUDA Triton; leave --compile out."
                ) from error
        check_classes(outputs, self.class_names, self.spec.title)
        for output in outputs:
            _refuse_not_finite(output)
        if self._planted is not None:
            return [synthetic.replace_output(output, self._planted) for output in outputs]
        return outputs

    def attend(self, scene: Scene, **wishes: Any) -> Any:
        """What queries looked at in an image; the arguments are those of models.attention.attended_queries."""
        return self.adapter.attend(self, scene, **wishes)

    def plant_segments(self, count: int) -> Callable[[], None]:
        """Makes the model answer with `count` segments, tiles of a grid, in every image; what it returns undoes it.

        The forward pass is not spared anything: only what the network says last is replaced.
        """
        undo = self.adapter.plant_segments(self.module, count)
        if undo is not None:
            return undo
        self._planted = count

        def forget() -> None:
            self._planted = None

        return forget

    @contextlib.contextmanager
    def numerics(self) -> Iterator[None]:
        """The arithmetic that `precision` names, whatever the process has set otherwise."""
        with tf32_as(self.precision) if self.device.type == "cuda" else contextlib.nullcontext():
            if self.precision not in _AUTOCAST:
                yield
                return
            with torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision]):
                yield


def open_model(
    spec: ModelSpec,
    *,
    weights: str = "auto",
    device: str | torch.device = "auto",
    precision: str = "fp32",
    seed: int = 0,
    speedups: bool = True,
    compiled: bool = False,
    download: bool = False,
    reporter: Reporter = SILENT,
) -> Model:
    """The model of a spec, ready to run.

    weights: "auto" (the config's), "random" (drawn from `seed`), a path, or a URL. With other weights than the config's
        the model's published numbers go: they are claims about those weights.
    device: auto, cpu, cuda, cuda:N or mps
    speedups: False keeps the network as its library has it, with the attention weights and masks of every decoder layer
    compiled: the backbone is compiled by torch.compile when it first runs, which takes a minute and needs a compiler
    download: fetch weights that are a URL and not here, else the error says how; reporter: hears of steps and bytes
    On a CPU the process keeps the memory that it frees (`base.heap`).
    Raises BadModel, BadCheckpoint, BadArgument, DownloadFailed.
    """
    chosen = choose_device(device) if isinstance(device, str) else device
    check_precision(precision, chosen)
    if chosen.type == "cpu":
        keep_freed_memory()
    made = import_named(spec.adapter, spec)
    if not (isinstance(made, type) and issubclass(made, Adapter)):
        # Imported here, as a function's model is one more kind of model.
        from panbench.models.functions import open_factory

        return open_factory(spec, made, precision=precision, weights=weights)
    made.check(spec)
    spec, path = resolve_weights(spec, weights, needed=made.needs_weights, download=download, reporter=reporter)
    adapter = made(spec)
    torch.manual_seed(seed)
    reporter.status(f"Building {spec.title}")
    module = adapter.build()
    checkpoint = None
    if path is not None:
        reporter.status(f"Reading the weights of {spec.title}")
        checkpoint = load_checkpoint(path)
        apply_checkpoint(module, dataclasses.replace(checkpoint, state_dict=adapter.rename(checkpoint.state_dict)))
    model = HostedModel(
        adapter,
        module,
        device=chosen,
        precision=precision,
        checkpoint=checkpoint,
        seed=seed,
        random_weights=weights == "random",
        speedups=speedups,
    )
    if compiled:
        backbone = getattr(model.module, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise BadArgument(f"--compile: {spec.title} has no module named backbone to compile. Leave --compile out.")
        cast(Any, model.module).backbone = torch.compile(backbone, dynamic=True)
        model.compiled = True
    return model


def resolve_weights(
    spec: ModelSpec,
    weights: str,
    *,
    needed: bool = True,
    download: bool = False,
    reporter: Reporter = SILENT,
) -> tuple[ModelSpec, Path | None]:
    """The model with the weights that are asked for, and their file; None for random weights.

    weights, download, reporter: as in `open_model`
    needed: whether a config that names no weights is an error
    Raises BadCheckpoint when they are not here and may not be fetched, DownloadFailed when fetching fails.
    """
    if weights == "random" or (weights == "auto" and spec.weights is None and not needed):
        return spec, None
    if weights != "auto":
        spec = with_weights(spec, weights)
        if "://" not in weights:
            return spec, Path(weights).expanduser()
    return spec, fetch_weights(
        spec,
        progress=counter(reporter, f"{spec.title}: weights", "bytes"),
        offline=not download,
        notice=reporter.notice,
    )


def batch_key(model: Model, image: ImageInfo) -> Hashable:
    """Images of which this is equal may share a batch: what the model says, else their size."""
    own = getattr(model, "batch_key", None)
    return (image.height, image.width) if own is None else own(image)


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


def sizes_of(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """The (height, width) of each image."""
    return [(image.shape[-2], image.shape[-1]) for image in images]


def on_device(images: Sequence[Tensor], size: tuple[int, int], device: torch.device) -> Tensor:
    """(B, 3, height, width) of a size on the device: each image at the top left, the rest undefined.

    images: (3, h, w) uint8 on the host, at most that large. One copy, which on CUDA is only queued.
    """
    batch = torch.empty(
        (len(images), *images[0].shape[:-2], *size), dtype=images[0].dtype, pin_memory=device.type == "cuda"
    )
    for place, image in enumerate(images):
        batch[place, ..., : image.shape[-2], : image.shape[-1]] = image
    return upload(batch, device)


def normalised(
    pixels: Tensor, mean: Tensor, std: Tensor, sizes: Sequence[tuple[int, int]], padding: float = 0.0
) -> Tensor:
    """(pixels - mean) / std in float32, and `padding` beyond the (height, width) of each image."""
    found = (pixels.float() - mean) / std
    alike = len(set(sizes)) == 1
    for place, (height, width) in enumerate(sizes[:1] if alike else sizes):
        of_image = found if alike else found[place]
        if height < found.shape[-2]:
            of_image[..., height:, :] = padding
        if width < found.shape[-1]:
            of_image[..., :height, width:] = padding
    return found


def way_of_running(model: Model) -> dict[str, Any]:
    """How a model computes: precision, whether its backbone is compiled, the seed of random weights, its `settings`."""
    return {
        "precision": getattr(model, "precision", "fp32"),
        "compiled": getattr(model, "compiled", False),
        "seed": getattr(model, "seed", 0),
        **getattr(model, "settings", {}),
    }


def import_named(name: str, spec: ModelSpec) -> Any:
    """What `package.module:attribute` names. Raises BadModel when it cannot be imported, or has no such attribute."""
    module_name, _, attribute = name.partition(":")
    # As with `python -m`, a module in the current folder can be named; last, so that it takes nobody's place.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise BadModel(f"{spec.title}: there is no Python module {module_name} ({name} is not importable).") from error
    except (ImportError, SyntaxError) as error:
        raise BadModel(f"{spec.title}: {module_name} cannot be imported ({type(error).__name__}: {error}).") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise BadModel(f"{spec.title}: the module {module_name} has nothing named {attribute!r}.") from None


def choose_device(name: str) -> torch.device:
    """The device that `--device` names: auto (CUDA if there is one, else CPU), cpu, cuda, cuda:1, mps. BadArgument."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise BadArgument(f"--device {name} is unknown; it is auto, cpu, cuda, cuda:N or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        reason = "this PyTorch has no CUDA" if torch.version.cuda is None else "no CUDA device is found"
        raise BadArgument(f"--device {name}: {reason}. Use --device cpu, or install a CUDA build of PyTorch.")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise BadArgument(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadArgument("--device mps: this machine or this PyTorch has no Metal. Use --device cpu.")
    return torch.device(name)


def _is_of_dynamo(error: Exception) -> bool:
    # torch._dynamo takes a second to import; where it has not been imported, no error is its.
    dynamo = sys.modules.get("torch._dynamo.exc")
    return dynamo is not None and isinstance(error, dynamo.TorchDynamoException)


@contextlib.contextmanager
def tf32_as(precision: str) -> Iterator[None]:
    """TF32 on CUDA as a precision has it; afterwards the process's own settings are back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32, matmul.allow_tf32 = _TF32.get(precision, (True, False))
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def check_precision(precision: str, device: torch.device) -> None:
    """Raises BadArgument for a precision that is unknown or that the device does not have."""
    if precision not in PRECISIONS:
        raise BadArgument(f"--precision {precision} is unknown; it is one of {', '.join(PRECISIONS)}.")
    if precision == "tf32" and device.type != "cuda":
        raise BadArgument(f"--precision tf32 needs a CUDA device; this run is on {device}.")


def count_parameters(module: nn.Module) -> int:
    """How many numbers a model learns or has learned; buffers such as BatchNorm's statistics are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def read_photograph(scene: Scene) -> tuple[npt.NDArray[np.uint8], PhotoFacts]:
    """(H, W, 3) red, green, blue of a scene's image, and its facts. BadDataset: damaged, or not of the stated size."""
    image = scene.image
    bgr, facts = read_photo(str(scene.image_path), (image.height, image.width), image_id=image.id, exif=scene.exif)
    return np.ascontiguousarray(bgr[..., ::-1]), facts


def decode(path: str) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) blue, green, red of an image file, None when it cannot be read as one."""
    try:
        return cast("npt.NDArray[np.uint8] | None", cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR))
    except (OSError, cv2.error):
        return None


def refuse_other_size(scene: Scene, found: tuple[int, int]) -> None:
    """Raises BadDataset when an image's (height, width) is not what its dataset says."""
    image = scene.image
    if found != (image.height, image.width):
        raise BadDataset(
            f"{scene.image_path} (image {image.id}) is {found[0]}×{found[1]} but the JSON says "
            f"{image.height}×{image.width} (height × width)."
        )


def _refuse_not_finite(output: Output) -> None:
    # What is on the host already costs nothing to look at; masks are looked at by the rule, with the map.
    if isinstance(output, Candidates) and not np.isfinite(output.gate).all():
        raise NonFiniteOutput("scores")
    if isinstance(output, Instances) and not np.isfinite(output.scores).all():
        raise NonFiniteOutput("scores")
