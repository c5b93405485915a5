panbench = {
    "title": "EoMT-L 640 (DINOv2)",
    "family": "eomt",
    "backbone": "ViT-L",
    "weights": None,
    "published": {
        "PQ": 0.56,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 316_695_686,
    "input_size": "640²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-L",
    "settings": {"repository": "tue-mps/coco_panoptic_eomt_large_640"},
}
