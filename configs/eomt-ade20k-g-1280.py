panbench = {
    "title": "EoMT-g 1280 (DINOv2), ADE20K",
    "family": "eomt",
    "backbone": "ViT-g",
    "weights": None,
    "published": {
        "PQ": 0.528,
        "dataset": "ade20k",
        "split": "val",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 1_171_020_951,
    "input_size": "1280²",
    "trained_on": "ade20k",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-g-1280 (COCO panoptic)",
    "settings": {
        "repository": "tue-mps/ade20k_panoptic_eomt_giant_1280",
        "labels": "ade20k",
    },
}
