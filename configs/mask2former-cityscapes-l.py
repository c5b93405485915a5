panbench = {
    "title": "Mask2Former Swin-L, Cityscapes",
    "family": "mask2former",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-L",
    "weights": None,
    "published": {
        "PQ": 0.666,
        "dataset": "cityscapes",
        "split": "val",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 215_509_384,
    "input_size": "1024×2048",
    "trained_on": "cityscapes",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-L",
    "settings": {
        "repository": "facebook/mask2former-swin-large-cityscapes-panoptic",
        "labels": "cityscapes",
        "sizes": {"short": 1024, "long": 2048},
    },
}
