"""mmdet's panoptic families: the detector, how its heads are read, and the fusion rule of its paper.

The one registry of them: config.py, speedups.py, attention.py and adapter.py ask it. A further detector of mmdet is a
class here, a line in FAMILIES, and a line in `panbench.catalog.FAMILIES`.
"""

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from panbench.models import feeding
from panbench.models.candidates import NO_LABEL, Frame, Instances, Output, softmax_candidates
from panbench.models.decoders import Decoder, Part, without_last
from panbench.models.mmdet import detection, operators, pixel_decoder, speedups, synthetic
from panbench.models.rules import Rule
from panbench.models.rules.compete import Mask2Former as Mask2FormerRule
from panbench.models.rules.compete import MaskFormer as MaskFormerRule
from panbench.models.rules.panoptic_fpn import PanopticFPN as PanopticFPNRule


class Family:
    """A detector class of mmdet, with whatever inherits from it."""

    name: str
    """As configs and run.json name it."""
    detector: str
    """mmdet's class."""
    has_queries: bool = False

    def configure(self, description: Any) -> None:
        """Turns off, in a config's model, what PQ does not need; in place."""

    def counts(self, module: Any) -> tuple[int, int]:
        """How many things and how much stuff the model knows; mmdet numbers things first."""
        head = module.panoptic_fusion_head
        return int(head.num_things_classes), int(head.num_stuff_classes)

    def rule(self, module: Any) -> Rule:
        """The rule of its paper, with the thresholds of the config's `test_cfg`."""
        raise NotImplementedError

    def outputs(
        self,
        module: Any,
        inputs: Tensor,
        samples: Sequence[Any],
        frames: Sequence[Frame],
        isthing: tuple[bool, ...],
    ) -> list[Output]:
        """The model's output for each image of a batch, on the device. Raises NonFiniteOutput."""
        raise NotImplementedError

    def speed_up(self, module: Any, device: torch.device) -> None:
        """Takes out of the heads, in place, what only training needs."""

    def plant(self, module: Any, count: int) -> Callable[[], None]:
        """Makes the heads answer with `count` segments; what it returns undoes it."""
        raise NotImplementedError

    def decoder(self, module: Any) -> Decoder | None:
        """The layers after each of which the heads can answer; None where there are none."""
        return None


class PanopticFPN(Family):
    """Mask R-CNN with a semantic branch. [Kirillov et al. 2019]"""

    name = "panoptic-fpn"
    detector = "PanopticFPN"

    def rule(self, module: Any) -> Rule:
        """mmdet's heuristic head; the detection's own score threshold (`rcnn.score_thr`) was applied before it."""
        test = module.panoptic_fusion_head.test_cfg
        return PanopticFPNRule(
            score=0.0,
            overlap=test.mask_overlap,
            stuff_area=test.stuff_area_limit,
            mask=module.roi_head.test_cfg.mask_thr_binary,
        )

    def outputs(
        self,
        module: Any,
        inputs: Tensor,
        samples: Sequence[Any],
        frames: Sequence[Frame],
        isthing: tuple[bool, ...],
    ) -> list[Output]:
        """Detections by falling score with the mask of their class, and the semantic logits."""
        head = module.roi_head
        features = module.extract_feat(inputs)
        semantic = module.semantic_head(features)["seg_preds"]
        detected = None
        if feeding.is_fed(inputs.device) and detection.fits(module):
            detected = detection.detect(module, features, [frame.resized for frame in frames])
        metas = [sample.metainfo for sample in samples]
        if detected is None:
            proposals = module.rpn_head.predict(features, samples, rescale=False)
            found = head.predict_bbox(features, metas, proposals, rcnn_test_cfg=head.test_cfg, rescale=False)
            detected = _as_mmdet_has_them(head, features, found)
        # In order of score; the boxes in the pixels of the original images.
        orders, scales, start = [], [], 0
        for meta, count in zip(metas, detected.counts, strict=True):
            orders.append(torch.argsort(-detected.scores[start : start + count]) + start)
            scales.append(torch.tensor(meta.get("scale_factor", (1.0, 1.0))).repeat((1, 2)).expand(count, -1))
            start += count
        order = torch.cat(orders)
        there = feeding.upload(order, inputs.device)
        scale = feeding.upload(torch.cat(scales).contiguous(), inputs.device)
        boxes, masks = (detected.boxes / scale.to(detected.boxes))[there], detected.masks[there]
        labels, scores = detected.labels[order].tolist(), detected.scores[order].tolist()
        stuff = tuple(label for label, thing in enumerate(isthing) if not thing)
        outputs: list[Output] = []
        start = 0
        for frame, logits, count in zip(frames, semantic, detected.counts, strict=True):
            rows = slice(start, start + count)
            start += count
            outputs.append(
                Instances(
                    boxes=boxes[rows],
                    masks=masks[rows],
                    labels=tuple(labels[rows]),
                    scores=tuple(scores[rows]),
                    semantic_logits=logits,
                    semantic_labels=(*stuff, NO_LABEL),
                    frame=frame,
                )
            )
        return outputs

    def speed_up(self, module: Any, device: torch.device) -> None:
        """RoIAlign without waits where `detection` knows the heads; coordinates in float32 at any precision."""
        if type(module.semantic_head).__name__ == "PanopticFPNHead":
            module.semantic_head.forward = types.MethodType(speedups.semantic_logits, module.semantic_head)
        if type(module.rpn_head).__name__ == "RPNHead":
            module.rpn_head.forward_single = types.MethodType(speedups.objectness_and_boxes, module.rpn_head)
        # Under autocast the heads' answers are of half precision, and so would be the anchors and boxes that mmdet
        # makes of them: in bfloat16 the pixels of an edge at 1000 are 8 apart.
        head = module.roi_head
        for part in (module.rpn_head, head.bbox_head, head.mask_head):
            part.register_forward_hook(lambda part, inputs, output: _in_float32(output))
        for extractor in (head.bbox_roi_extractor, head.mask_roi_extractor):
            extractor.register_forward_pre_hook(lambda part, inputs: _in_float32(inputs))
        if feeding.is_fed(device) and detection.fits(module):
            for extractor in (module.roi_head.bbox_roi_extractor, module.roi_head.mask_roi_extractor):
                extractor.forward = types.MethodType(detection.pool_levels, extractor)

    def plant(self, module: Any, count: int) -> Callable[[], None]:
        """Plants `count` instances; the stuff between them stays the model's."""
        return synthetic.plant_instances(module, count)


class MaskFormer(Family):
    """Queries that each give a class and a mask. [Cheng et al. 2021]"""

    name = "maskformer"
    detector = "MaskFormer"
    has_queries = True

    def configure(self, description: Any) -> None:
        """Instance results are of no use to PQ."""
        if description.get("test_cfg"):
            description.test_cfg.instance_on = False

    def rule(self, module: Any) -> Rule:
        """MaskFormer's rule, or Mask2Former's where the config drops uncertain pixels (`filter_low_score`)."""
        test = module.panoptic_fusion_head.test_cfg
        rule = Mask2FormerRule if test.get("filter_low_score", False) else MaskFormerRule
        return rule(score=test.get("object_mask_thr", 0.8), overlap=test.get("iou_thr", 0.8))

    def outputs(
        self,
        module: Any,
        inputs: Tensor,
        samples: Sequence[Any],
        frames: Sequence[Frame],
        isthing: tuple[bool, ...],
    ) -> list[Output]:
        """The last decoder layer's classes and masks."""
        class_logits, mask_logits = module.panoptic_head(module.extract_feat(inputs), samples)
        most = module.panoptic_fusion_head.test_cfg.get("max_per_image", 100)
        return list(softmax_candidates(class_logits[-1], mask_logits[-1], frames, isthing, most_instances=most))

    def speed_up(self, module: Any, device: torch.device) -> None:
        """(layers, batch, queries, channels) → the last layer, before it is multiplied with every pixel."""
        module.panoptic_head.transformer_decoder.register_forward_hook(lambda decoder, inputs, output: output[-1:])

    def plant(self, module: Any, count: int) -> Callable[[], None]:
        """Plants `count` queries."""
        return synthetic.plant_queries(module, count)

    def decoder(self, module: Any) -> Decoder:
        """The transformer decoder's layers; class and mask heads are the same after each."""
        head = module.panoptic_head
        layers = head.transformer_decoder.layers
        count = len(layers)

        def cut(kept: int) -> None:
            without_last(layers, count - kept)
            # Mask2Former's head, where it is mmdet's own, counts by itself.
            head.num_transformer_decoder_layers = kept

        necks = [module.neck] if module.with_neck else []
        return Decoder(count, cut, [Part(each) for each in (module.backbone, *necks, head.pixel_decoder, *layers)])


class Mask2Former(MaskFormer):
    """MaskFormer with masked attention. [Cheng et al. 2022]"""

    name = "mask2former"
    detector = "Mask2Former"

    def speed_up(self, module: Any, device: torch.device) -> None:
        """Masks of the last layer alone; deformable attention as matrix products on a CPU."""
        head = module.panoptic_head
        head.forward = types.MethodType(speedups.last_layer_of_mask2former, head)
        pixel_decoder.speed_up(head.pixel_decoder)
        if device.type == "cpu":
            operators.speed_up_deformable_attention()


def _in_float32(values: Any) -> Any:
    """The same tensors, in nested tuples and lists, in float32 at least."""
    if isinstance(values, Tensor):
        changed = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
        if changed is not values and hasattr(values, "on_host"):
            changed.on_host = values.on_host  # type: ignore[attr-defined]
        return changed
    return type(values)(_in_float32(each) for each in values) if isinstance(values, (tuple, list)) else values


def _as_mmdet_has_them(head: Any, features: Sequence[Tensor], found: Sequence[Any]) -> detection.Detections:
    """What mmdet's box head found in a batch, with the masks."""
    counts = [len(instances) for instances in found]
    boxes = torch.cat([instances.bboxes for instances in found])
    scores, labels = (torch.cat([instances[key] for instances in found]) for key in ("scores", "labels"))
    if len(boxes):
        owner = torch.repeat_interleave(torch.arange(len(found)), torch.tensor(counts)).to(boxes)
        masks = head._mask_forward(features, torch.cat([owner[:, None], boxes], dim=1))["mask_preds"].sigmoid()
        row = torch.arange(len(masks), device=masks.device)
        masks = masks[:, 0] if head.mask_head.class_agnostic else masks[row, labels]
    else:
        masks = boxes.new_zeros((0, 1, 1))
    host = torch.stack([scores.float(), labels.float()]).cpu()
    return detection.Detections(boxes, host[1].long(), host[0], counts, masks)


FAMILIES: tuple[Family, ...] = (PanopticFPN(), MaskFormer(), Mask2Former())


def family_of_detector(name: str) -> Family | None:
    """The family of a detector of mmdet by its name, with or without `mmdet.`; None for any other."""
    return next((family for family in FAMILIES if family.detector == name.removeprefix("mmdet.")), None)


def family_of_class(class_: type) -> Family | None:
    """The family of a class that is or inherits from one of mmdet's detectors; None for any other."""
    from mmdet.models import detectors

    # In the order of inheritance: mmdet's Mask2Former is a MaskFormer, too.
    for base in class_.__mro__:
        for family in FAMILIES:
            if base is getattr(detectors, family.detector):
                return family
    return None
