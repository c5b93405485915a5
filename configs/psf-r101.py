panbench = {
    "title": "Panoptic SegFormer R101",
    "family": "psf",
    "backbone": "R101",
    "aliases": ["panoptic-segformer-r101"],
    "weights": "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0/panoptic_segformer_r101_2x.pth",
    "published": {
        "PQ": 0.506,
        "dataset": "coco",
        "split": "val2017",
        "source": "zhiqi-li/Panoptic-SegFormer cdb9b68, README.md",
    },
    "params": 69_650_055,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "zhiqi-li/Panoptic-SegFormer cdb9b68, LICENSE",
    "system": "Panoptic SegFormer R101",
    "settings": {
        "backbone": {
            "type": "ResNet",
            "depth": 101,
            "out_indices": [1, 2, 3],
            "norm_eval": True,
            "style": "pytorch",
        },
        "channels": [512, 1024, 2048],
    },
}
