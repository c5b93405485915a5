panbench = {
    "title": "Mask DINO R50",
    "family": "mask-dino",
    "backbone": "R50",
    "aliases": ["mask-dino"],
    "weights": "https://github.com/IDEA-Research/detrex-storage/releases/download/maskdino-v0.1.0/maskdino_r50_50ep_300q_hid2048_3sd1_panoptic_pq53.0.pth",
    "published": {
        "PQ": 0.53,
        "dataset": "coco",
        "split": "val2017",
        "source": "IDEA-Research/MaskDINO 3831d85, README.md",
    },
    "params": 52_104_265,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {
        "backbone": {
            "type": "ResNet",
            "depth": 50,
            "out_indices": [0, 1, 2, 3],
            "norm_eval": True,
            "style": "pytorch",
        },
        "channels": [256, 512, 1024, 2048],
        "encoded": 3,
    },
}
