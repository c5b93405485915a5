_base_ = "mmdet::mask2former/mask2former_swin-b-p4-w12-384-in21k_8xb2-lsj-50e_coco-panoptic.py"

panbench = {
    "title": "Mask2Former Swin-B (IN-21k)",
    "family": "mask2former",
    "backbone": "Swin-B",
    "weights": "https://download.openmmlab.com/mmdetection/v3.0/mask2former/mask2former_swin-b-p4-w12-384-in21k_8xb2-lsj-50e_coco-panoptic/"
    "mask2former_swin-b-p4-w12-384-in21k_8xb2-lsj-50e_coco-panoptic_20220329_230021-05ec7315.pth",
    "published": {
        "PQ": 0.563,
        "dataset": "coco",
        "split": "val2017",
        "source": "mmdetection 3.3.0, configs/mask2former/metafile.yml",
    },
    "params": 106_917_822,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "mmdetection 3.3.0, README.md",
    "system": "Mask2Former Swin-B",
}
