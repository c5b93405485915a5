panbench = {
    "title": "EoMT-S 640 (DINOv3)",
    "family": "eomt",
    "backbone": "ViT-S",
    "weights": None,
    "published": {
        "PQ": 0.472,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov3.md",
    },
    "params": 23_356_934,
    "input_size": "640²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv3-S",
    "settings": {"repository": "tue-mps/eomt-dinov3-coco-panoptic-small-640", "labels": "coco"},
}
