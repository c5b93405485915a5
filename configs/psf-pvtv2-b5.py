panbench = {
    "title": "Panoptic SegFormer PVTv2-B5",
    "family": "psf",
    "backbone": "PVTv2-B5",
    "aliases": ["panoptic-segformer-pvtv2-b5"],
    "weights": "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0/panoptic_segformer_pvtv2b5_2x.pth",
    "published": {
        "PQ": 0.556,
        "dataset": "coco",
        "split": "val2017",
        "source": "zhiqi-li/Panoptic-SegFormer cdb9b68, README.md",
    },
    "params": 104_382_215,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {
        "backbone": {
            "type": "PyramidVisionTransformerV2",
            "embed_dims": 64,
            "num_layers": [3, 6, 40, 3],
            "num_heads": [1, 2, 5, 8],
            "mlp_ratios": [4, 4, 4, 4],
            "out_indices": [1, 2, 3],
        },
        "channels": [128, 320, 512],
        "quality": 0.3,
    },
}
