# The repository holds 250_16_swin_l_oneformer_ade20k_160k.pth; OneFormer's README lists it with crops of 640×640.
# The threshold is that of its authors' config for this set, OBJECT_MASK_THRESHOLD: 0.5.
panbench = {
    "title": "OneFormer Swin-L, ADE20K",
    "family": "oneformer",
    "backbone": "Swin-L",
    "weights": None,
    "published": {
        "PQ": 0.498,
        "dataset": "ade20k",
        "split": "val",
        "source": "SHI-Labs/OneFormer 4962ef6, README.md",
    },
    "params": 218_814_220,
    "input_size": "640×2560",
    "trained_on": "ade20k",
    "license": "MIT",
    "license_source": "SHI-Labs/OneFormer 4962ef6, LICENSE",
    "system": "OneFormer Swin-L",
    "settings": {
        "repository": "shi-labs/oneformer_ade20k_swin_large",
        "labels": "ade20k",
        "sizes": {"short": 640, "long": 2560},
        "rule": "oneformer:score=0.5",
    },
}
