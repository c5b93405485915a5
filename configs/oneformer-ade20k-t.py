# OneFormer's README lists no result of it. The threshold is that of its authors' config, OBJECT_MASK_THRESHOLD: 0.5.
panbench = {
    "title": "OneFormer Swin-T, ADE20K",
    "family": "oneformer",
    "backbone": "Swin-T",
    "weights": None,
    "published": None,
    "params": 50_737_938,
    "input_size": "512×2048",
    "trained_on": "ade20k",
    "license": "MIT",
    "license_source": "SHI-Labs/OneFormer 4962ef6, LICENSE",
    "settings": {
        "repository": "shi-labs/oneformer_ade20k_swin_tiny",
        "labels": "ade20k",
        "sizes": {"short": 512, "long": 2048},
        "rule": "oneformer:score=0.5",
    },
}
