panbench = {
    "title": "Mask2Former Swin-L (transformers)",
    "family": "mask2former",
    "adapter": "panbench.models.transformers.adapter:TransformersAdapter",
    "backbone": "Swin-L",
    "weights": None,
    "published": {
        "PQ": 0.578,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": None,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {"repository": "facebook/mask2former-swin-large-coco-panoptic"},
}
