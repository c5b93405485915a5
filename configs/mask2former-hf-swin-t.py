panbench = {
    "title": "Mask2Former Swin-T (transformers)",
    "family": "mask2former",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-T",
    "weights": None,
    "published": {
        "PQ": 0.532,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": None,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "settings": {"repository": "facebook/mask2former-swin-tiny-coco-panoptic"},
}
