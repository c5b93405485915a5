panbench = {
    "title": "Mask2Former Swin-S, Cityscapes",
    "family": "mask2former",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-S",
    "weights": None,
    "published": {
        "PQ": 0.648,
        "dataset": "cityscapes",
        "split": "val",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 68_725_406,
    "input_size": "1024×2048",
    "trained_on": "cityscapes",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-S",
    "settings": {
        "repository": "facebook/mask2former-swin-small-cityscapes-panoptic",
        "labels": "cityscapes",
        "sizes": {"short": 1024, "long": 2048},
    },
}
