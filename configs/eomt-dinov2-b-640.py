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
    "params": None,
    "input_size": "640²",
    "trained_on": "coco",
    "settings": {"repository": "tue-mps/coco_panoptic_eomt_base_640_2x"},
}
