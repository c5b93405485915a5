panbench = {
    "title": "EoMT-g 1280 (DINOv2)",
    "family": "eomt",
    "backbone": "ViT-g",
    "weights": None,
    "published": {
        "PQ": 0.592,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 1_170_994_822,
    "input_size": "1280²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-g-1280",
    "settings": {"repository": "tue-mps/coco_panoptic_eomt_giant_1280"},
}
