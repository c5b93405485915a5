panbench = {
    "title": "EoMT-L 1280 (DINOv2), ADE20K",
    "family": "eomt",
    "backbone": "ViT-L",
    "weights": None,
    "published": {
        "PQ": 0.517,
        "dataset": "ade20k",
        "split": "val",
        "source": "tue-mps/eomt 7bd19dd, model_zoo/dinov2.md",
    },
    "params": 321_628_311,
    "input_size": "1280²",
    "trained_on": "ade20k",
    "license": "MIT",
    "license_source": "tue-mps/eomt 7bd19dd, LICENSE",
    "system": "EoMT DINOv2-L-1280 (COCO panoptic)",
    "settings": {
        "repository": "tue-mps/ade20k_panoptic_eomt_large_1280",
        "labels": "ade20k",
    },
}
