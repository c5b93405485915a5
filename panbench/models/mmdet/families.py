"""mmdet's panoptic families: detector class, outputs of its heads, and the fusion rule of its paper.

To add a detector of mmdet, write a class here, and add it to FAMILIES and to `panbench.catalog.FAMILIES`.
"""

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from panbench.base.errors import BadModel
from panbench.models import synthetic
from panbench.models.attention import Attention, best_classes, layers_by_level, record_module_calls
from panbench.models.candidates import NO_LABEL, Frame, Instances, Output, softmax_candidates
from panbench.models.decoders import Decoder, Part
from panbench.models.mmdet import deformable, pixel_decoder, speedups
from panbench.models.rules import Rule
from panbench.models.rules.compete import Mask2Former as Mask2FormerRule
from panbench.models.rules.compete import MaskFormer as MaskFormerRule
from panbench.models.rules.panoptic_fpn import PanopticFPN as PanopticFPNRule


class PreprocessedBatch(NamedTuple):
    """Holds images that mmdet's preprocessing has normalised and padded.

    inputs: (B, 3, H, W) on the device; samples: mmdet's, with the images' sizes
    """

    inputs: Tensor
    samples: Sequence[Any]
    frames: Sequence[Frame]


class Family:
    """Runs one detector class of mmdet, and the classes that inherit from it."""

    name: str
    """The name in configs and run.json."""
    detector: str
    """The name of mmdet's class."""

    def configure(self, description: Any) -> None:
        """Switches off, in a config's model, what PQ does not need."""

    def counts(self, module: Any) -> tuple[int, int]:
        """Returns the number of thing and of stuff classes; mmdet numbers things first."""
        head = module.panoptic_fusion_head
        return int(head.num_things_classes), int(head.num_stuff_classes)

    def rule(self, module: Any) -> Rule:
        """Returns the fusion rule of the family's paper, with the thresholds of the config's `test_cfg`."""
        raise NotImplementedError

    def outputs(self, module: Any, batch: PreprocessedBatch, isthing: tuple[bool, ...]) -> list[Output]:
        """Runs the network; returns its output for each image of a batch, on the device. Raises NonFiniteOutput."""
        raise NotImplementedError

    def speed_up(self, module: Any, device: torch.device) -> None:
        """Makes the heads faster, in place; removes what only training needs."""

    def plant(self, module: Any, count: int) -> Callable[[], None]:
        """Makes the heads output `count` segments, for timing untrained models; returns a function that undoes it."""
        raise NotImplementedError

    def decoder(self, module: Any) -> Decoder | None:
        """Returns the transformer decoder, which can be cut after any layer; None if there is none."""
        return None

    def attention(self, module: Any, batch: PreprocessedBatch) -> Attention | None:
        """Returns the cross-attention of an image's queries; None for a family without queries."""
        return None


class PanopticFPN(Family):
    """Runs Mask R-CNN with a semantic branch. [Kirillov et al. 2019]"""

    name = "panoptic-fpn"
    detector = "PanopticFPN"

    def rule(self, module: Any) -> Rule:
        """Returns mmdet's heuristic, without a score threshold: the detector has applied `rcnn.score_thr` before."""
        test = module.panoptic_fusion_head.test_cfg
        return PanopticFPNRule(
            score=0.0,
            overlap=test.mask_overlap,
            stuff_area=test.stuff_area_limit,
            mask=module.roi_head.test_cfg.mask_thr_binary,
        )

    def outputs(self, module: Any, batch: PreprocessedBatch, isthing: tuple[bool, ...]) -> list[Output]:
        """Returns detections by falling score, each with the mask of its class, and semantic logits."""
        inputs, samples, frames = batch
        head = module.roi_head
        features = module.extract_feat(inputs)
        semantic = module.semantic_head(features)["seg_preds"]
        metas = [sample.metainfo for sample in samples]
        proposals = module.rpn_head.predict(features, samples, rescale=False)
        found = head.predict_bbox(features, metas, proposals, rcnn_test_cfg=head.test_cfg, rescale=False)
        masks = _class_masks(head, features, found)
        stuff = tuple(label for label, thing in enumerate(isthing) if not thing)
        outputs: list[Output] = []
        for frame, logits, meta, instances, own_masks in zip(frames, semantic, metas, found, masks, strict=True):
            scores, labels = instances.scores.float().cpu(), instances.labels.cpu()
            order = torch.argsort(-scores)
            rows = order.to(inputs.device)
            scale = instances.bboxes.new_tensor(meta.get("scale_factor", (1.0, 1.0))).repeat(2)
            outputs.append(
                Instances(
                    boxes=(instances.bboxes / scale)[rows],  # in pixels of the original image
                    masks=own_masks[rows],
                    labels=tuple(labels[order].tolist()),
                    scores=tuple(scores[order].tolist()),
                    semantic_logits=logits,
                    semantic_labels=(*stuff, NO_LABEL),
                    frame=frame,
                )
            )
        return outputs

    def speed_up(self, module: Any, device: torch.device) -> None:
        """Makes the semantic branch add up its levels one by one; keeps coordinates in float32 at any precision."""
        if type(module.semantic_head).__name__ == "PanopticFPNHead":
            module.semantic_head.forward = types.MethodType(speedups.semantic_logits, module.semantic_head)
        # Under autocast the heads' outputs are in half precision, and so would be mmdet's anchors and boxes: bfloat16
        # cannot represent single pixels beyond 256.
        head = module.roi_head
        for part in (module.rpn_head, head.bbox_head, head.mask_head):
            part.register_forward_hook(lambda part, inputs, output: _as_float32(output))
        for extractor in (head.bbox_roi_extractor, head.mask_roi_extractor):
            extractor.register_forward_pre_hook(lambda part, inputs: _as_float32(inputs))

    def plant(self, module: Any, count: int) -> Callable[[], None]:
        """Makes the network output `count` instances, for timing untrained models; stuff is not changed."""
        return synthetic.plant_instances(module, count)


class MaskFormer(Family):
    """Runs networks whose queries each give a class and a mask. [Cheng et al. 2021]"""

    name = "maskformer"
    detector = "MaskFormer"

    def configure(self, description: Any) -> None:
        """Disables instance results, which PQ does not need."""
        if description.get("test_cfg"):
            description.test_cfg.instance_on = False

    def rule(self, module: Any) -> Rule:
        """Returns MaskFormer's rule, or Mask2Former's if the config drops uncertain pixels (`filter_low_score`)."""
        test = module.panoptic_fusion_head.test_cfg
        rule = Mask2FormerRule if test.get("filter_low_score", False) else MaskFormerRule
        return rule(score=test.get("object_mask_thr", 0.8), overlap=test.get("iou_thr", 0.8))

    def outputs(self, module: Any, batch: PreprocessedBatch, isthing: tuple[bool, ...]) -> list[Output]:
        """Runs the network; returns each image's masks and class scores, one per query of the last decoder layer."""
        class_logits, mask_logits = module.panoptic_head(module.extract_feat(batch.inputs), batch.samples)
        most = module.panoptic_fusion_head.test_cfg.get("max_per_image", 100)
        return list(softmax_candidates(class_logits[-1], mask_logits[-1], batch.frames, isthing, most_instances=most))

    def speed_up(self, module: Any, device: torch.device) -> None:
        """Keeps only the last layer's queries, so that earlier layers' masks are not computed."""
        module.panoptic_head.transformer_decoder.register_forward_hook(lambda decoder, inputs, output: output[-1:])

    def plant(self, module: Any, count: int) -> Callable[[], None]:
        """Makes the network output `count` rectangular masks, for timing untrained models."""
        return synthetic.plant_queries(module, count)

    def decoder(self, module: Any) -> Decoder:
        """Returns the transformer decoder, which can be cut after any layer; all layers share the heads."""
        head = module.panoptic_head

        def set_decoder_layer_count(left: int) -> None:
            """Sets the number of decoder layers over which mmdet's own head loops."""
            # mmdet's own Mask2Former head loops over this number.
            head.num_transformer_decoder_layers = left

        necks = [module.neck] if module.with_neck else []
        before = map(Part, (module.backbone, *necks, head.pixel_decoder))
        return Decoder.of_layers(head.transformer_decoder.layers, *before, cut=set_decoder_layer_count)

    def attention(self, module: Any, batch: PreprocessedBatch) -> Attention:
        """Records the decoder's cross-attention in a forward pass.

        Raises BadModel with speed-ups, which drop attention weights.
        """
        head = module.panoptic_head
        parts = {number: layer.cross_attn.attn for number, layer in enumerate(head.transformer_decoder.layers)}
        with record_module_calls({**parts, "pixels": head.pixel_decoder}) as calls:
            classes, masks = head(module.extract_feat(batch.inputs), batch.samples)
        if any(calls[number][-1].output[1] is None for number in parts):
            raise BadModel("The model's attention keeps no weights. Load it with `load_model(…, speedups=False)`.")
        memory = calls["pixels"][-1].output[1]
        maps = memory if isinstance(memory, (list, tuple)) else [memory]
        # Mask2Former predicts once before the first layer; MaskFormer only after each.
        masks = [each[0] for each in masks[len(masks) - len(parts) :]]
        layers = layers_by_level(calls, [(level.shape[-2], level.shape[-1]) for level in maps], masks)
        return Attention(*best_classes(classes[-1][0]), layers, batch.frames[0])


class Mask2Former(MaskFormer):
    """Runs MaskFormer with masked attention. [Cheng et al. 2022]"""

    name = "mask2former"
    detector = "Mask2Former"

    def speed_up(self, module: Any, device: torch.device) -> None:
        """Computes only the last layer's masks, and deformable attention as one gather."""
        head = module.panoptic_head
        head.forward = types.MethodType(speedups.last_layer_of_mask2former, head)
        pixel_decoder.speed_up(head.pixel_decoder)
        deformable.speed_up(head)


def _as_float32(values: Any) -> Any:
    """Converts tensors of half precision to float32, also in nested tuples and lists."""
    if isinstance(values, Tensor):
        return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    return type(values)(_as_float32(each) for each in values) if isinstance(values, (tuple, list)) else values


def _class_masks(head: Any, features: Sequence[Tensor], found: Sequence[Any]) -> Sequence[Tensor]:
    """Runs the mask head; returns (N, m, m) probabilities per image, for each box the mask of its class.

    found: mmdet's instances of each image, from the box head
    """
    counts = [len(instances) for instances in found]
    boxes = torch.cat([instances.bboxes for instances in found])
    if not len(boxes):
        return [boxes.new_zeros((0, 1, 1)) for _ in found]
    image = torch.repeat_interleave(torch.arange(len(found)), torch.tensor(counts)).to(boxes)
    masks = head._mask_forward(features, torch.cat([image[:, None], boxes], dim=1))["mask_preds"].sigmoid()
    labels = torch.cat([instances.labels for instances in found])
    row = torch.arange(len(masks), device=masks.device)
    return (masks[:, 0] if head.mask_head.class_agnostic else masks[row, labels]).split(counts)


FAMILIES: tuple[Family, ...] = (PanopticFPN(), MaskFormer(), Mask2Former())


def family_of_class(class_: type) -> Family | None:
    """Returns the family of a class that is, or inherits from, one of mmdet's detectors; None for any other."""
    from mmdet.models import detectors

    # In the order of inheritance: mmdet's Mask2Former is a MaskFormer, too.
    for base in class_.__mro__:
        for family in FAMILIES:
            if base is getattr(detectors, family.detector):
                return family
    return None
