panbench = {
    "title": "Panoptic SegFormer Swin-L",
    "family": "psf",
    "backbone": "Swin-L",
    "aliases": ["panoptic-segformer-swin-l"],
    "weights": "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0/panoptic_segformer_swinl_2x.pth",
    "published": {
        "PQ": 0.558,
        "dataset": "coco",
        "split": "val2017",
        "source": "zhiqi-li/Panoptic-SegFormer cdb9b68, README.md",
    },
    "params": 220_738_651,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {
        "backbone": {
            "type": "SwinTransformer",
            "embed_dims": 192,
            "depths": [2, 2, 18, 2],
            "num_heads": [6, 12, 24, 48],
            "window_size": 7,
            "out_indices": [1, 2, 3],
        },
        "channels": [384, 768, 1536],
        "quality": 0.3,
    },
}
