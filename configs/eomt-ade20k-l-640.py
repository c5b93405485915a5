panbench = {
    "title": "EoMT-L 640 (DINOv2), ADE20K",
    "family": "eomt",
    "backbone": "ViT-L",
    "weights": None,
    "published": {
        "PQ": 0.506,
        "dataset": "ade20k",
        "split": "val",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 316_713_111,
    "input_size": "640²",
    "trained_on": "ade20k",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-L (COCO panoptic)",
    "settings": {
        "repository": "tue-mps/ade20k_panoptic_eomt_large_640",
        "labels": "ade20k",
    },
}
