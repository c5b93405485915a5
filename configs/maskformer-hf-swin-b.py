panbench = {
    "title": "MaskFormer Swin-B (transformers)",
    "family": "maskformer",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-B",
    "weights": None,
    "published": {
        "PQ": 0.518,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 101_827_070,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "settings": {"repository": "facebook/maskformer-swin-base-coco"},
}
