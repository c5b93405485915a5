_base_ = "mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py"

panbench = {
    "title": "MaskFormer R50",
    "family": "maskformer",
    "backbone": "R50",
    "aliases": ["maskformer"],
    "weights": "https://download.openmmlab.com/mmdetection/v3.0/maskformer/maskformer_r50_ms-16xb1-75e_coco/"
    "maskformer_r50_ms-16xb1-75e_coco_20230116_095226-baacd858.pth",
    "published": {
        "PQ": 0.469,
        "dataset": "coco",
        "split": "val2017",
        "source": "mmdetection 3.3.0, configs/maskformer/metafile.yml",
    },
    "params": 45_065_158,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "mmdetection 3.3.0, README.md",
    "system": "MaskFormer R50",
}
