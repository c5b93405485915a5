panbench = {
    "title": "MaskFormer Swin-T (transformers)",
    "family": "maskformer",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-T",
    "weights": None,
    "published": {
        "PQ": 0.477,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 41_754_176,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "settings": {"repository": "facebook/maskformer-swin-tiny-coco"},
}
