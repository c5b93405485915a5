# The threshold is that of its authors' config for this set, OBJECT_MASK_THRESHOLD: 0.0.
panbench = {
    "title": "Mask2Former Swin-L, Mapillary Vistas",
    "family": "mask2former",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-L",
    "weights": None,
    "published": {
        "PQ": 0.455,
        "dataset": "mapillary",
        "split": "val",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 215_521_206,
    "input_size": "2048×2048",
    "trained_on": "mapillary",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-L",
    "settings": {
        "repository": "facebook/mask2former-swin-large-mapillary-vistas-panoptic",
        "labels": "mapillary",
        "sizes": {"short": 2048, "long": 2048},
        "rule": "mask2former:score=0",
    },
}
