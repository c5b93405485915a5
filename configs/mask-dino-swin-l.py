panbench = {
    "title": "Mask DINO Swin-L",
    "family": "mask-dino",
    "backbone": "Swin-L",
    "weights": "https://github.com/IDEA-Research/detrex-storage/releases/download/maskdino-v0.1.0/maskdino_swinl_50ep_300q_hid2048_3sd1_panoptic_58.3pq.pth",
    "published": {
        "PQ": 0.583,
        "dataset": "coco",
        "split": "val2017",
        "source": "IDEA-Research/MaskDINO 3831d85, README.md",
    },
    "params": 222_792_285,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {
        "backbone": {
            "type": "SwinTransformer",
            "embed_dims": 192,
            "depths": [2, 2, 18, 2],
            "num_heads": [6, 12, 24, 48],
            "window_size": 12,
            "pretrain_img_size": 384,
            "out_indices": [0, 1, 2, 3],
        },
        "channels": [192, 384, 768, 1536],
        "encoded": 4,
    },
}
