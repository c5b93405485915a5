_base_ = "mmdet::maskformer/maskformer_swin-l-p4-w12_64xb1-ms-300e_coco.py"

panbench = {
    "title": "MaskFormer Swin-L",
    "family": "maskformer",
    "backbone": "Swin-L",
    "weights": "https://download.openmmlab.com/mmdetection/v3.0/maskformer/maskformer_swin-l-p4-w12_64xb1-ms-300e_coco/"
    "maskformer_swin-l-p4-w12_64xb1-ms-300e_coco_20220326_221612-c63ab967.pth",
    "published": {
        "PQ": 0.532,
        "dataset": "coco",
        "split": "val2017",
        "source": "mmdetection 3.3.0, configs/maskformer/metafile.yml",
    },
    "params": 211_571_258,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "mmdetection 3.3.0, README.md",
    "system": "MaskFormer Swin-L",
}
