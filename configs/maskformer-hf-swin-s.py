panbench = {
    "title": "MaskFormer Swin-S (transformers)",
    "family": "maskformer",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-S",
    "weights": None,
    "published": {
        "PQ": 0.497,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 63_072_080,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "settings": {"repository": "facebook/maskformer-swin-small-coco"},
}
