panbench = {
    "title": "Panoptic SegFormer R50 2x",
    "family": "psf",
    "backbone": "R50",
    "aliases": ["psf", "panoptic-segformer", "panoptic-segformer-r50", "panoptic-segformer-r50-2x"],
    "weights": "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0/panoptic_segformer_r50_2x.pth",
    "published": {
        "PQ": 0.496,
        "dataset": "coco",
        "split": "val2017",
        "source": "zhiqi-li/Panoptic-SegFormer cdb9b68, README.md",
    },
    "params": 50_657_927,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "zhiqi-li/Panoptic-SegFormer cdb9b68, LICENSE",
    "system": "Panoptic SegFormer R50",
    "settings": {
        "backbone": {
            "type": "ResNet",
            "depth": 50,
            "out_indices": [1, 2, 3],
            "norm_eval": True,
            "style": "pytorch",
        },
        "channels": [512, 1024, 2048],
    },
}
