"""Runs panoptic networks of Hugging Face's transformers; resizing, scoring and fusion are panbench's.

A model is a folder with config.json and weights, a repository of the hub, or an equivalent config file of panbench
(docs/models.md). The extra `transformers` is needed, but neither torchvision nor timm; image processors of transformers
are not called.
"""

import contextlib
import dataclasses
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from panbench.base import hub
from panbench.base.errors import BadCheckpoint, BadModel
from panbench.base.extras import install_line
from panbench.catalog import ModelSpec, repository_of
from panbench.models.adapter import Adapter
from panbench.models.async_device import constant
from panbench.models.attention import Attention, best_classes
from panbench.models.candidates import NO_LABEL, Candidates, Frame, pixel_boxes, softmax_candidates
from panbench.models.decoders import Decoder
from panbench.models.labels import check_labels
from panbench.models.model import LoadedImage
from panbench.models.preprocess import Resize
from panbench.models.rules import parse_rule
from panbench.models.transformers import eomt_names
from panbench.models.transformers.decoders import decoder_of, forward_with_attention
from panbench.models.transformers.families import IMAGENET_MEAN, IMAGENET_STD, family_of, network_settings, read_json
from panbench.models.transformers.labels import read_labels
from panbench.models.transformers.processor import read_processor
from panbench.models.transformers.speedups import speed_up

_TASK_TOKENS = (49406, 518, 10549, 533, 1072, 24755, 49407)
"""OneFormer's prompt, "the task is panoptic", in CLIP's tokens; padded with zeros."""
_TIMM_KEYS = ("use_timm_backbone", "backbone", "backbone_config", "use_pretrained_backbone", "backbone_kwargs")
_TIMM_RESNETS = {
    "resnet18": ("basic", (64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet50": ("bottleneck", (256, 512, 1024, 2048), (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (256, 512, 1024, 2048), (3, 4, 23, 3)),
}


def _import_transformers() -> Any:
    """Imports the package transformers. Raises BadModel, with the command that installs it, if it is missing."""
    hub.endpoint()  # an invalid URL would end the import with a traceback that quotes it
    try:
        module = importlib.import_module("transformers")
    except ImportError as error:
        raise BadModel(
            f"This model needs the package transformers ({error}). Install it with: {install_line('transformers')}"
        ) from error
    return module


@contextlib.contextmanager
def _silence_transformers() -> Iterator[None]:
    """Silences transformers' notices and progress bars within the block; errors are still raised."""
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
    """Runs Mask2Former, MaskFormer, OneFormer, EoMT, EoMT-DINOv3 and DETR of Hugging Face's transformers."""

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    @classmethod
    def check(cls, spec: ModelSpec) -> None:
        """Raises BadModel if transformers is not installed; BadArgument or BadDataset for an invalid --labels."""
        _import_transformers()
        check_labels(spec.settings.get("labels"))

    @_silence_transformers()
    def __init__(self, spec: ModelSpec) -> None:
        """Reads config.json (or the config's `network`) and the image processor's settings. Raises BadModel."""
        super().__init__(spec)
        settings = spec.settings
        folder = _config_folder(spec)
        self.declared: dict[str, Any] = (
            dict(settings["network"]) if folder is None else read_json(folder / "config.json", spec.title)
        )
        self.kind = family_of(self.declared, spec.title)
        self.family = self.kind.name
        self.compiled_part = self.kind.backbone
        self.rule = parse_rule(settings.get("rule", self.kind.rule))
        self.config_text = json.dumps(self.declared, sort_keys=True)
        processor = read_processor(folder, spec.title, self.family)
        sizes = {**processor.sides, **settings.get("sizes", {})}
        self.mean, self.std = processor.mean_and_std(self.mean, self.std)
        self.declared_rules = {"transformers": processor.rule}
        self.processor_size = None if self.kind.square else processor.exact
        short: int | None = sizes.get("short", 800)
        if self.kind.square:
            if not processor.resizes:
                raise BadModel(
                    f"{spec.title}: its {processor.file} has do_resize: false, but {self.kind.title} takes squares of "
                    "one size only. Set it to true."
                )
            short = int(self.declared.get("image_size", 640))
        self.resize = Resize(
            short=short,
            long=int(sizes.get("long", 1333)),
            fit=self.kind.size,
            way="pil",
            divisor=self.kind.divisor,
            square=short if self.kind.square else None,
            black=self.kind.square,  # EoMT pads before it normalises
        )
        self._transformers = _import_transformers()
        self.versions = {"transformers": self._transformers.__version__}
        self.config = self._build_config()
        labels = read_labels(spec.title, settings, self.config.id2label or {}, self.config.num_labels)
        self.class_names, self.isthing, self._named_labels = labels.names, labels.isthing, list(labels.labels)
        self._label_of = np.full(self.config.num_labels + 1, NO_LABEL, np.int64)
        self._label_of[self._named_labels] = np.arange(len(self._named_labels))

    # ---- the network

    @_silence_transformers()
    def build(self) -> nn.Module:
        """Builds the network with transformers' initial weights."""
        return cast(nn.Module, self._network_class(self.config))

    @_silence_transformers()
    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames parameters of earlier versions of transformers to this version's names. Raises BadCheckpoint."""
        with torch.device("meta"):
            ours = self._network_class(self.config).state_dict()
        if self.kind.square:
            state_dict = eomt_names.renamed(state_dict, ours)
        self._refuse_other_number_of_classes(state_dict)
        if set(state_dict) == set(ours):
            return state_dict
        if "backbone" in self.config.to_dict() or self._timm_backbone is not None:
            state_dict = {_without_timm(name): value for name, value in state_dict.items()}
        renamed, report = self._network_class.from_pretrained(
            None, config=self.config, state_dict=dict(state_dict), output_loading_info=True
        )
        missing, unknown = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
        unknown = [name for name in unknown if not name.endswith(_NOT_PARAMETERS)]
        if missing or unknown or report["mismatched_keys"]:
            raise BadCheckpoint(
                f"The weights of {self.spec.title} do not fit a {self.kind.network} of its config.json: "
                f"{_count_names('missing', missing)}, {_count_names('unknown', unknown)}, "
                f"{len(report['mismatched_keys'])} of another shape. Take config.json and weights from one repository."
            )
        return cast(nn.Module, renamed).state_dict()

    def _refuse_other_number_of_classes(self, state_dict: Mapping[str, Tensor]) -> None:
        """Raises BadCheckpoint if config.json has another number of labels than the weights have classes."""
        for name, value in state_dict.items():
            # The last row stands for "nothing".
            if name.endswith(_CLASS_HEADS) and value.ndim and len(value) - 1 != (declared := self.config.num_labels):
                raise BadCheckpoint(
                    f"{self.spec.title} was trained for {len(value) - 1} classes, but id2label of its config.json has "
                    f"{declared}. Write the name of each label there that it was trained with, from 0 on, in the order "
                    "of training."
                )

    @property
    def _network_class(self) -> Any:
        """Returns transformers' class of the family."""
        return getattr(self._transformers, self.kind.network)

    def _build_config(self) -> Any:
        """Builds transformers' config of the network; a ResNet of timm is replaced by transformers' own."""
        declared = dict(self.declared)
        if declared.get("id2label"):
            # If the two disagree, transformers drops all names.
            declared.pop("num_labels", None)
        backbone = declared.get("backbone_config")
        self._timm_backbone: str | None = None
        if self.kind.name == "detr":
            if declared.get("use_timm_backbone", backbone is None):
                self._timm_backbone = declared.get("backbone") or "resnet50"
            elif isinstance(backbone, dict) and backbone.get("model_type") == "timm_backbone":
                self._timm_backbone = backbone.get("backbone") or "resnet50"
        if self._timm_backbone is not None:
            if declared.get("dilation"):
                raise BadModel(
                    f"{self.spec.title} dilates its last stage (DC5), which transformers' ResNet cannot: it would need "
                    "timm. Take the model without DC5."
                )
            if self._timm_backbone not in _TIMM_RESNETS:
                raise BadModel(
                    f"{self.spec.title} has the backbone {self._timm_backbone} of timm, which panbench does not know."
                )
            declared = {name: value for name, value in declared.items() if name not in _TIMM_KEYS}
        known = network_settings(declared, self._transformers, self.spec.title)
        if self._timm_backbone is not None:
            layer, widths, depths = _TIMM_RESNETS[self._timm_backbone]
            stages = [f"stage{stage}" for stage in (1, 2, 3, 4)]
            known["backbone_config"] = self._transformers.ResNetConfig(
                layer_type=layer, hidden_sizes=list(widths), depths=list(depths), out_features=stages
            )
        try:
            return self._transformers.AutoConfig.for_model(known.pop("model_type"), **known)
        except Exception as error:
            raise BadModel(
                f"{self.spec.title}: transformers {self._transformers.__version__} cannot read its config.json "
                f"({type(error).__name__}: {error})."
            ) from error

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Makes transformers' modules faster and removes host synchronisation, in place."""
        speed_up(module, device)
        return super().speed_up(module, device)

    # ---- images in, candidates out

    def mirrored(self, image: LoadedImage) -> LoadedImage:
        """Returns the image flipped left to right; EoMT's padding, which is part of the input, stays at the right."""
        width = image.sample.resized[1]
        turned = torch.cat([image.inputs[..., :width].flip(-1), image.inputs[..., width:]], dim=-1)
        return dataclasses.replace(image, inputs=turned)

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> list[Candidates]:
        """Returns a candidate per query, scored by a softmax over the classes and "nothing"."""
        outputs = self._forward(module, pixels)
        classes, masks = getattr(outputs, self.kind.class_logits), getattr(outputs, self.kind.mask_logits)
        found = softmax_candidates(classes, masks, frames, self.isthing)
        # Of these families DETR alone has a box head; its images have no padding.
        boxes = getattr(outputs, "pred_boxes", None)
        return [
            dataclasses.replace(
                each,
                labels=self._label_of[each.labels],
                class_scores=None if each.class_scores is None else self._logits_of_named_labels(each.class_scores),
                boxes=None if boxes is None else pixel_boxes(boxes[image], *each.frame.original),
            )
            for image, each in enumerate(found)
        ]

    def _logits_of_named_labels(self, scores: Tensor) -> Tensor:
        """Returns the columns of class logits whose labels have names; a view if they are the first ones."""
        if self._named_labels == list(range(len(self._named_labels))):
            return scores[:, : len(self._named_labels)]
        return scores.index_select(1, constant(tuple(self._named_labels), scores.device))

    def decoder(self, module: Any) -> Decoder:
        """Returns the network's decoder, which can be cut after any layer; for EoMT the last blocks, with queries."""
        return decoder_of(self.kind.name, module)

    def attention_of(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """Returns the decoder's cross-attention; for EoMT the attention of queries to patches."""
        outputs, layers = forward_with_attention(self.kind.name, module, lambda: self._forward(module, pixels))
        scores, labels = best_classes(getattr(outputs, self.kind.class_logits)[0])
        own = torch.from_numpy(self._label_of[labels.cpu().numpy()])
        return Attention(scores, own.to(labels.device), layers, frame)

    def _forward(self, module: Any, pixels: Tensor) -> Any:
        """Runs the network on normalised pixels; gives OneFormer the prompt of the panoptic task."""
        extra: dict[str, Tensor] = {}
        if self.kind.name == "oneformer":
            prompt = (*_TASK_TOKENS, *(0 for _ in range(self.config.task_seq_len - len(_TASK_TOKENS))))
            extra["task_inputs"] = constant((prompt,), pixels.device).expand(len(pixels), -1)
        return module(pixel_values=pixels, **extra)


_CLASS_HEADS = ("class_predictor.bias", "decoder.class_embed.bias", "class_labels_classifier.bias")
_NOT_PARAMETERS = ("relative_position_index", "position_ids", "num_batches_tracked", "criterion.empty_weight")
"""Buffers that earlier versions saved; they are computed now."""


def _config_folder(spec: ModelSpec) -> Path | None:
    """Returns the folder of config.json; None if a panbench config describes the network itself. Raises BadModel."""
    if "folder" in spec.settings:
        return Path(spec.settings["folder"])
    repository = repository_of(spec)
    if repository is None:
        return None
    folder = hub.cached_folder(repository, weights=False)
    if folder is None:
        raise BadModel(
            f"The config.json of {spec.title} ({repository}) is not on this machine. It comes with the weights: run "
            "once with --download and without --checkpoint."
        )
    return folder


def _without_timm(name: str) -> str:
    """Translates a parameter name of timm's ResNet to transformers' name."""
    found = re.match(r"(.*backbone\.(?:conv_encoder\.)?model\.)((?:conv1|bn1|layer\d)\..*)", name)
    if found is None:
        return name
    rest = re.sub(r"^(conv|bn)1\.", r"embedder.embedder.\1.", found[2])
    rest = re.sub(r"^layer(\d)\.", lambda stage: f"encoder.stages.{int(stage[1]) - 1}.layers.", rest)
    rest = re.sub(r"\.(conv|bn)([123])\.", lambda layer: f".layer.{int(layer[2]) - 1}.{layer[1]}.", rest)
    rest = rest.replace(".downsample.0.", ".shortcut.conv.").replace(".downsample.1.", ".shortcut.bn.")
    return found[1] + rest.replace(".conv.", ".convolution.").replace(".bn.", ".normalization.")


def _count_names(what: str, names: Sequence[str]) -> str:
    """Describes names for a message: how many, and the first three."""
    examples = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
    return f"{len(names)} {what}{examples}"
