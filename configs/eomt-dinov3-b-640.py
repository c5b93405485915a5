panbench = {
    "title": "EoMT-B 640 (DINOv3)",
    "family": "eomt",
    "backbone": "ViT-B",
    "weights": None,
    "published": {
        "PQ": 0.531,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov3.md",
    },
    "params": 92_425_094,
    "input_size": "640²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv3-B",
    "settings": {"repository": "tue-mps/eomt-dinov3-coco-panoptic-base-640", "labels": "coco"},
}
