panbench = {
    "title": "OneFormer Swin-L, Cityscapes",
    "family": "oneformer",
    "backbone": "Swin-L",
    "weights": None,
    "published": {
        "PQ": 0.672,
        "dataset": "cityscapes",
        "split": "val",
        "source": "SHI-Labs/OneFormer 4962ef6, README.md",
    },
    "params": 218_780_553,
    "input_size": "1024×2048",
    "trained_on": "cityscapes",
    "license": "MIT",
    "license_source": "SHI-Labs/OneFormer 4962ef6, LICENSE",
    "system": "OneFormer Swin-L",
    "settings": {
        "repository": "shi-labs/oneformer_cityscapes_swin_large",
        "labels": "cityscapes",
        "sizes": {"short": 1024, "long": 2048},
    },
}
