panbench = {
    "title": "EoMT-S 640 (DINOv2)",
    "family": "eomt",
    "backbone": "ViT-S",
    "weights": None,
    "published": {
        "PQ": 0.467,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 23_975_942,
    "input_size": "640²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-S",
    "settings": {"repository": "tue-mps/coco_panoptic_eomt_small_640_2x"},
}
