panbench = {
    "title": "EoMT-L 1280 (DINOv3)",
    "family": "eomt",
    "backbone": "ViT-L",
    "weights": None,
    "published": {
        "PQ": 0.589,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov3.md",
    },
    "params": 315_032_710,
    "input_size": "1280²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv3-L-1280",
    "settings": {"repository": "tue-mps/eomt-dinov3-coco-panoptic-large-1280", "labels": "coco"},
}
