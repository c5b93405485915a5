"""Runs a panoptic network of Hugging Face's transformers: logits from it, geometry, scoring and fusion from panbench.

A model is a folder with config.json and weights, a repository of the hub, or a config file of ours that says the same
(docs/models.md). transformers is the extra `transformers`; neither torchvision nor timm is needed, and no
image processor of transformers is called.
"""

import contextlib
import copy
import dataclasses
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from panbench.base import hub
from panbench.base.errors import BadArgument, BadCheckpoint, BadModel
from panbench.base.extras import install_line
from panbench.catalog import ModelSpec, repository_of
from panbench.datasets.convert import shipped_categories
from panbench.models.adapter import Adapter
from panbench.models.attention import Attention
from panbench.models.candidates import NO_LABEL, Candidates, Frame, pixel_boxes, softmax_candidates
from panbench.models.decoders import Decoder
from panbench.models.feeding import constant
from panbench.models.labels import is_unnamed, known_things, labels_of, spelt_as
from panbench.models.model import LoadedImage
from panbench.models.rules import parse_rule
from panbench.models.transformers.attention import looks_of
from panbench.models.transformers.decoders import decoder_of
from panbench.models.transformers.families import IMAGENET_MEAN, IMAGENET_STD, family_of
from panbench.models.transformers.processor import Processor
from panbench.models.transformers.settings import network_settings, read_json
from panbench.models.transformers.speedups import speed_up

__all__ = ["TransformersAdapter"]

_TASK = (49406, 518, 10549, 533, 1072, 24755, 49407)
"""OneFormer's prompt, "the task is panoptic", in CLIP's tokens; zeros fill it up."""
_LABELS_ARE_COCO_IDS = ("facebook/detr-resnet-101-panoptic",)
"""Repositories whose config.json names no label (LABEL_0 … LABEL_249) and whose labels are category ids of COCO."""
_TIMM_RESNETS = {
    "resnet18": ("basic", (64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet50": ("bottleneck", (256, 512, 1024, 2048), (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (256, 512, 1024, 2048), (3, 4, 23, 3)),
}


def _import_transformers() -> Any:
    hub.endpoint()  # a bad address would end the import with a traceback that quotes it
    try:
        module = importlib.import_module("transformers")
    except ImportError as error:
        raise BadModel(
            f"This model needs the package transformers ({error}). Install it with: {install_line('transformers')}"
        ) from error
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' notices and bars, which are for its own users: what matters here is checked and raised."""
    logging = _import_transformers().logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class TransformersAdapter(Adapter):
    """Mask2Former, MaskFormer, OneFormer, EoMT, EoMT-DINOv3 and DETR of transformers."""

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    @classmethod
    def check(cls, spec: ModelSpec) -> None:
        """transformers must be installed, and the weights must be whole. Raises BadModel."""
        _import_transformers()

    @_quiet()
    def __init__(self, spec: ModelSpec) -> None:
        """Reads config.json (or the config's `network`) and preprocessor_config.json. Raises BadModel."""
        super().__init__(spec)
        settings = spec.settings
        folder = _folder_of(spec)
        self.stated: dict[str, Any] = (
            dict(settings["network"]) if folder is None else read_json(folder / "config.json", spec.title)
        )
        self.kind = family_of(self.stated, spec.title)
        self.family = self.kind.name
        self.compiled_part = self.kind.backbone
        self.rule = parse_rule(settings.get("rule", self.kind.rule))
        self.config_text = json.dumps(self.stated, sort_keys=True)
        sizes = dict(settings.get("sizes", {}))
        stated: dict[str, Any] = {}
        if folder is not None and (folder / "preprocessor_config.json").is_file():
            stated = read_json(folder / "preprocessor_config.json", spec.title)
        processor = Processor(stated, spec.title, self.family)
        sizes = {**processor.sides, **sizes}
        self.mean = processor.scaled("image_mean", self.mean)
        self.std = processor.scaled("image_std", self.std)
        self.stated_rules = {"transformers": processor.rule}
        self.processor_size = None if self.kind.square else processor.exact
        self._exact: tuple[int, int] | None = None
        self._factor = 1.0
        self.short: int | None = sizes.get("short", 800)
        self.long = int(sizes.get("long", 1333))
        if self.kind.square:
            self.short = int(self.stated.get("image_size", 640))
        self._transformers = _import_transformers()
        self.versions = {"transformers": self._transformers.__version__}
        self.config = self._build_config()
        self._read_labels()

    # ---- the network

    @_quiet()
    def build(self) -> nn.Module:
        """The network with transformers' own initial weights."""
        return cast(nn.Module, self._network(self.config))

    @_quiet()
    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Parameters under this version's names; transformers knows those of its earlier ones. Raises BadCheckpoint."""
        self._refuse_other_number_of_classes(state_dict)
        with torch.device("meta"):
            ours = set(self._network(self.config).state_dict())
        if set(state_dict) == ours:
            return state_dict
        if "backbone" in self.config.to_dict() or self._timm is not None:
            state_dict = {_without_timm(name): value for name, value in state_dict.items()}
        renamed, report = self._network.from_pretrained(
            None, config=self.config, state_dict=dict(state_dict), output_loading_info=True
        )
        missing, unknown = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
        unknown = [name for name in unknown if not name.endswith(_NOT_PARAMETERS)]
        if missing or unknown or report["mismatched_keys"]:
            raise BadCheckpoint(
                f"The weights of {self.spec.title} do not fit a {self.kind.network} of its config.json: "
                f"{_counted('missing', missing)}, {_counted('unknown', unknown)}, "
                f"{len(report['mismatched_keys'])} of another shape. Take config.json and weights from one repository."
            )
        return cast(nn.Module, renamed).state_dict()

    def _refuse_other_number_of_classes(self, state_dict: Mapping[str, Tensor]) -> None:
        """Raises BadCheckpoint if config.json names more or fewer labels than the weights have classes."""
        for name, value in state_dict.items():
            # The last row stands for "nothing".
            if name.endswith(_CLASS_HEADS) and value.ndim and len(value) - 1 != (stated := self.config.num_labels):
                raise BadCheckpoint(
                    f"{self.spec.title} was trained for {len(value) - 1} classes, but id2label of its config.json has "
                    f"{stated}. Write the name of each label there that it was trained with, from 0 on, in the order "
                    "of training."
                )

    @property
    def _network(self) -> Any:
        return getattr(self._transformers, self.kind.network)

    def _build_config(self) -> Any:
        """transformers' config; a ResNet that it would take from timm becomes its own."""
        stated = dict(self.stated)
        if stated.get("id2label"):
            # Where the two disagree, transformers throws all names away.
            stated.pop("num_labels", None)
        backbone = stated.get("backbone_config")
        self._timm: str | None = None
        if self.kind.name == "detr":
            if stated.get("use_timm_backbone", backbone is None):
                self._timm = stated.get("backbone") or "resnet50"
            elif isinstance(backbone, dict) and backbone.get("model_type") == "timm_backbone":
                self._timm = backbone.get("backbone") or "resnet50"
        if self._timm is not None:
            if stated.get("dilation"):
                raise BadModel(
                    f"{self.spec.title} dilates its last stage (DC5), which transformers' ResNet cannot: it would need "
                    "timm. Take the model without DC5."
                )
            if self._timm not in _TIMM_RESNETS:
                raise BadModel(
                    f"{self.spec.title} has the backbone {self._timm} of timm, which panbench does not know."
                )
            layer, widths, depths = _TIMM_RESNETS[self._timm]
            for name in ("use_timm_backbone", "backbone", "use_pretrained_backbone", "backbone_kwargs"):
                stated.pop(name, None)
            stages = [f"stage{stage}" for stage in (1, 2, 3, 4)]
            stated["backbone_config"] = self._transformers.ResNetConfig(
                layer_type=layer, hidden_sizes=list(widths), depths=list(depths), out_features=stages
            )
        resnet = stated.pop("backbone_config") if self._timm is not None else None
        known = network_settings(stated, self._transformers, self.spec.title)
        if resnet is not None:
            known["backbone_config"] = resnet
        try:
            return self._transformers.AutoConfig.for_model(known.pop("model_type"), **known)
        except Exception as error:
            raise BadModel(
                f"{self.spec.title}: transformers {self._transformers.__version__} cannot read its config.json "
                f"({type(error).__name__}: {error})."
            ) from error

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """transformers' modules in fewer operations, and without what they ask the device for."""
        speed_up(module, device)
        return super().speed_up(module, device)

    # ---- its labels

    def _read_labels(self) -> None:
        """Names and things of the labels; labels without a name are never given (DETR's numbers have gaps)."""
        names = {int(label): str(name) for label, name in (self.config.id2label or {}).items()}
        if self.spec.settings.get("repository") in _LABELS_ARE_COCO_IDS and all(map(is_unnamed, names.values())):
            names |= {category.id: category.name for category in shipped_categories("coco") if category.id in names}
        classes = self.config.num_labels
        if beyond := [label for label in names if not 0 <= label < classes]:
            raise BadModel(
                f"{self.spec.title} has {classes} classes, labels 0 to {classes - 1}, but id2label of its config.json "
                f"names the label {max(beyond, key=abs)}. Give each label there the name that it was trained with, "
                'from 0 on and without gaps; "N/A" stands for one that is not used.'
            )
        names = self._names_of_training(names)
        named = [label for label in sorted(names) if not is_unnamed(names[label])]
        if not named:
            raise BadModel(
                f"{self.spec.title} names none of its {len(names)} labels (id2label of config.json), so they cannot be "
                "matched with a dataset's categories. Add the names there."
            )
        if len({names[label] for label in named}) < len(named):
            raise BadModel(f"{self.spec.title} gives one name to several labels (id2label of config.json).")
        self.class_names = tuple(names[label] for label in named)
        self.isthing = self._things()
        self._named = named
        self._label_of = np.full(max(names) + 2, NO_LABEL, np.int64)
        self._label_of[named] = np.arange(len(named))

    def _names_of_training(self, names: dict[int, str]) -> dict[int, str]:
        """The names of the set that `labels` of the config says, in its order; else those of id2label. Raises BadModel.

        The order is that of the training code. Names in id2label have to agree with it, however they are spelt.
        """
        trained: str | None = self.spec.settings.get("labels")
        labels = labels_of(trained)
        if trained is None or labels is None:
            return names
        if self.config.num_labels != len(labels[0]):
            raise BadModel(
                f"{self.spec.title} has {self.config.num_labels} classes (config.json), but {trained} has "
                f"{len(labels[0])}. Take the model's own repository."
            )
        categories = shipped_categories(trained)
        by_name = {category.name: label for label, category in enumerate(categories)}
        for label, stated in names.items():
            meant = spelt_as(stated, categories)
            if meant is not None and by_name[meant.name] != label:
                raise BadModel(
                    f"{self.spec.title}: label {label} is {stated!r} in its config.json, but {labels[0][label]!r} in "
                    f"the order of {trained}'s categories. Take the model's own repository."
                )
        return dict(enumerate(labels[0]))

    def _things(self) -> tuple[bool, ...]:
        stated = self.spec.settings.get("things")
        if stated is not None:
            if unknown := [name for name in stated if name not in self.class_names]:
                raise BadModel(f"{self.spec.title} has no category {unknown[0]!r}, which --things names.")
            isthing = tuple(name in set(stated) for name in self.class_names)
        else:
            isthing = known_things(self.class_names) or self._things_of_dataset()
        task = re.search(r"[-_](semantic|instance)\b", self.spec.title.lower().replace("_", "-"))
        # Who lists the things has looked at the model; a folder's name may say anything.
        trained = None if task is None or stated is not None else task[1]
        if len(set(isthing)) == 1:
            trained = "instance" if isthing[0] else "semantic"
        if trained is not None:
            lacks = "things" if trained == "semantic" else "stuff"
            raise BadModel(
                f"{self.spec.title} was trained for {trained} segmentation: it has no {lacks}. Take a checkpoint that "
                "was trained for panoptic segmentation."
            )
        if not isthing:
            raise BadModel(
                f"{self.spec.title} does not say which of its {len(self.class_names)} categories are things, and they "
                "are not those of a dataset that panbench knows. Write the names of the things into a file, one a "
                "line, and add --things FILE."
            )
        return isthing

    def _things_of_dataset(self) -> tuple[bool, ...]:
        """Which labels are things, as the dataset's own list of categories has it; empty where it lacks one of them."""
        of_dataset = self.spec.settings.get("dataset_isthing", {})
        if not all(name in of_dataset for name in self.class_names):
            return ()
        return tuple(of_dataset[name] for name in self.class_names)

    # ---- images in, candidates out

    def scaled(self, factor: float) -> "TransformersAdapter":
        """The same family with images `factor` times as large. Raises BadArgument for EoMT, which takes one size."""
        if self.kind.square or self._exact is not None:
            raise BadArgument(f"{self.spec.title} takes images of one size only: it has no views of other scales.")
        other = copy.copy(self)
        other._factor = self._factor * factor
        return other

    def as_its_processor(self) -> "TransformersAdapter":
        """The same family with images stretched as its own image processor does, where that has a size of its own."""
        if self.processor_size is None:
            return self
        other = copy.copy(self)
        other._exact = self.processor_size
        return other

    def _size_of(self, original: tuple[int, int]) -> tuple[int, int]:
        if self._exact is not None:
            return self._exact
        size = original if self.short is None else self.kind.size(original, self.short, self.long)
        if self._factor == 1.0:
            return size
        return max(1, int(size[0] * self._factor + 0.5)), max(1, int(size[1] * self._factor + 0.5))

    def mirrored(self, image: LoadedImage) -> LoadedImage:
        """The image mirrored; EoMT's padding, which is in the input already, stays at its right."""
        width = image.sample.resized[1]
        turned = torch.cat([image.inputs[..., :width].flip(-1), image.inputs[..., width:]], dim=-1)
        return dataclasses.replace(image, inputs=turned)

    def prepare(self, rgb: npt.NDArray[np.uint8]) -> tuple[Tensor, Frame]:
        """(3, h, w) uint8 on the host and the frame: resized as the family's paper does it."""
        original = (rgb.shape[0], rgb.shape[1])
        size = self._size_of(original)
        if size != original:
            rgb = np.asarray(Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))
        if self.kind.square:
            # EoMT pads with black before it normalises, so its padding is not 0 in the network's input.
            side = cast(int, self.short)
            pixels = nn.functional.pad(pixels, (0, side - size[1], 0, side - size[0]))
            return pixels, Frame((side, side), size, original)
        divisor = self.kind.divisor
        padded = (-(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor)
        return pixels, Frame(padded, size, original)

    def padded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """The padded size of `prepare`; EoMT's squares, padded before normalisation, all have one size."""
        if self.kind.square:
            return cast(int, self.short), cast(int, self.short)
        size = self._size_of((height, width))
        divisor = self.kind.divisor
        return -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> list[Candidates]:
        """One candidate a query, scored by the softmax over the classes and "nothing"."""
        outputs = self._forward(module, pixels)
        classes, masks = getattr(outputs, self.kind.class_logits), getattr(outputs, self.kind.mask_logits)
        found = softmax_candidates(classes, masks, frames, self.isthing)
        # Of these families DETR alone has a box head; its images have no padding.
        boxes = getattr(outputs, "pred_boxes", None)
        return [
            dataclasses.replace(
                each,
                labels=self._label_of[each.labels],
                class_scores=None if each.class_scores is None else self._of_named(each.class_scores),
                boxes=None if boxes is None else pixel_boxes(boxes[image], *each.frame.original),
            )
            for image, each in enumerate(found)
        ]

    def _of_named(self, scores: Tensor) -> Tensor:
        """The columns of the labels that have names; a view where they are the first."""
        if self._named == list(range(len(self._named))):
            return scores[:, : len(self._named)]
        return scores.index_select(1, constant(tuple(self._named), scores.device))

    def decoder(self, module: Any) -> Decoder:
        """The family's decoder; of EoMT, the last blocks, in which the queries take part."""
        return decoder_of(self.kind.name, module)

    def look(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """The cross-attention of the family's decoder; of EoMT, how its queries attend to the patches."""
        outputs, layers = looks_of(self.kind.name, module, lambda: self._forward(module, pixels))
        logits = getattr(outputs, self.kind.class_logits)[0].float()
        scores, labels = logits.softmax(dim=-1).max(dim=-1)
        labels = torch.where(labels == logits.shape[-1] - 1, NO_LABEL, labels)
        return Attention(
            scores, torch.from_numpy(self._label_of[labels.cpu().numpy()]).to(labels.device), layers, frame
        )

    def _forward(self, module: Any, pixels: Tensor) -> Any:
        extra: dict[str, Tensor] = {}
        if self.kind.name == "oneformer":
            prompt = (*_TASK, *(0 for _ in range(self.config.task_seq_len - len(_TASK))))
            extra["task_inputs"] = constant((prompt,), pixels.device).expand(len(pixels), -1)
        return module(pixel_values=pixels, **extra)


_CLASS_HEADS = ("class_predictor.bias", "decoder.class_embed.bias", "class_labels_classifier.bias")
_NOT_PARAMETERS = ("relative_position_index", "position_ids", "num_batches_tracked", "criterion.empty_weight")
"""Buffers that earlier versions saved and that are computed."""


def _folder_of(spec: ModelSpec) -> Path | None:
    """Where config.json is; None for a config of ours that holds the network itself. Raises BadModel."""
    if "folder" in spec.settings:
        return Path(spec.settings["folder"])
    repository = repository_of(spec)
    if repository is None:
        return None
    folder = hub.here(repository, weights=False)
    if folder is None:
        raise BadModel(
            f"The config.json of {spec.title} ({repository}) is not on this machine. It comes with the weights: run "
            "once with --download and without --checkpoint."
        )
    return folder


def _without_timm(name: str) -> str:
    """A parameter of timm's ResNet under the name that transformers' has: same layers, other words."""
    found = re.match(r"(.*backbone\.(?:conv_encoder\.)?model\.)((?:conv1|bn1|layer\d)\..*)", name)
    if found is None:
        return name
    prefix, rest = found[1], found[2]
    if stem := re.match(r"(conv|bn)1\.(.*)", rest):
        return f"{prefix}embedder.embedder.{'convolution' if stem[1] == 'conv' else 'normalization'}.{stem[2]}"
    block = re.match(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))\.(.*)", rest)
    if block is None:
        return name
    at = f"{prefix}encoder.stages.{int(block[1]) - 1}.layers.{block[2]}."
    if block[5] is not None:
        return f"{at}shortcut.{'convolution' if block[5] == '0' else 'normalization'}.{block[6]}"
    return f"{at}layer.{int(block[4]) - 1}.{'convolution' if block[3] == 'conv' else 'normalization'}.{block[6]}"


def _counted(what: str, names: Sequence[str]) -> str:
    shown = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
    return f"{len(names)} {what}{shown}"
