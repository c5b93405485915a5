panbench = {
    "title": "EoMT-B 640 (DINOv2)",
    "family": "eomt",
    "backbone": "ViT-B",
    "weights": None,
    "published": {
        "PQ": 0.516,
        "dataset": "coco",
        "split": "val2017",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 93_663_110,
    "input_size": "640²",
    "trained_on": "coco",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-B",
    "settings": {"repository": "tue-mps/coco_panoptic_eomt_base_640_2x"},
}
