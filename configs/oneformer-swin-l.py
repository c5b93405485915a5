panbench = {
    "title": "OneFormer Swin-L",
    "family": "oneformer",
    "backbone": "Swin-L",
    "weights": None,
    "published": {
        "PQ": 0.579,
        "PQ_th": 0.644,
        "PQ_st": 0.48,
        "dataset": "coco",
        "split": "val2017",
        "source": "SHI-Labs/OneFormer, README.md",
    },
    "params": None,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {"repository": "shi-labs/oneformer_coco_swin_large"},
}
