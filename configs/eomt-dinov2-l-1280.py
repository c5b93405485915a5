panbench = {
    "title": "EoMT-L 1280 (DINOv2)",
    "family": "eomt",
    "backbone": "ViT-L",
    "weights": None,
    "published": {
        "PQ": 0.583,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 321_610_886,
    "input_size": "1280²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-L-1280",
    "settings": {"repository": "tue-mps/coco_panoptic_eomt_large_1280"},
}
