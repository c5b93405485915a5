panbench = {
    "title": "Mask2Former Swin-B (transformers)",
    "family": "mask2former",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-B",
    "weights": None,
    "published": None,
    "params": None,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {"repository": "facebook/mask2former-swin-base-coco-panoptic"},
}
