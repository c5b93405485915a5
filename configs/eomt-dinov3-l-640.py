panbench = {
    "title": "EoMT-L 640 (DINOv3)",
    "family": "eomt",
    "backbone": "ViT-L",
    "weights": None,
    "published": {
        "PQ": 0.568,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov3.md",
    },
    "params": 315_032_710,
    "input_size": "640²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv3-L",
    "settings": {"repository": "tue-mps/eomt-dinov3-coco-panoptic-large-640", "labels": "coco"},
}
