_base_ = "mmdet::mask2former/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic.py"

panbench = {
    "title": "Mask2Former Swin-L (IN-21k)",
    "family": "mask2former",
    "backbone": "Swin-L",
    "weights": "https://download.openmmlab.com/mmdetection/v3.0/mask2former/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic/"
    "mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic_20220407_104949-82f8d28d.pth",
    "published": {
        "PQ": 0.576,
        "dataset": "coco",
        "split": "val2017",
        "source": "mmdetection 3.3.0, configs/mask2former/metafile.yml",
    },
    "params": 215_535_610,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "mmdetection 3.3.0, README.md",
    "system": "Mask2Former Swin-L",
}
