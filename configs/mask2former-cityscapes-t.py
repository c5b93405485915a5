panbench = {
    "title": "Mask2Former Swin-T, Cityscapes",
    "family": "mask2former",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-T",
    "weights": None,
    "published": {
        "PQ": 0.639,
        "dataset": "cityscapes",
        "split": "val",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 47_407_502,
    "input_size": "1024×2048",
    "trained_on": "cityscapes",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-T",
    "settings": {
        "repository": "facebook/mask2former-swin-tiny-cityscapes-panoptic",
        "labels": "cityscapes",
        "sizes": {"short": 1024, "long": 2048},
    },
}
