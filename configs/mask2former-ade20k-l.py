panbench = {
    "title": "Mask2Former Swin-L, ADE20K",
    "family": "mask2former",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-L",
    "weights": None,
    "published": {
        "PQ": 0.481,
        "dataset": "ade20k",
        "split": "val",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 215_543_051,
    "input_size": "640×2560",
    "trained_on": "ade20k",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-L",
    "settings": {
        "repository": "facebook/mask2former-swin-large-ade-panoptic",
        "labels": "ade20k",
        "sizes": {"short": 640, "long": 2560},
    },
}
