panbench = {
    "title": "EoMT-g 640 (DINOv2), ADE20K",
    "family": "eomt",
    "backbone": "ViT-g",
    "weights": None,
    "published": {
        "PQ": 0.513,
        "dataset": "ade20k",
        "split": "val",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 1_163_648_151,
    "input_size": "640²",
    "trained_on": "ade20k",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-g (COCO panoptic)",
    "settings": {
        "repository": "tue-mps/ade20k_panoptic_eomt_giant_640",
        "labels": "ade20k",
    },
}
