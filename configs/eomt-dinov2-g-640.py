panbench = {
    "title": "EoMT-g 640 (DINOv2)",
    "family": "eomt",
    "backbone": "ViT-g",
    "weights": None,
    "published": {
        "PQ": 0.57,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 1_163_622_022,
    "input_size": "640²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-g",
    "settings": {"repository": "tue-mps/coco_panoptic_eomt_giant_640"},
}
