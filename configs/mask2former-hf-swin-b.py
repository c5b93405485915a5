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
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "settings": {"repository": "facebook/mask2former-swin-base-coco-panoptic"},
}
