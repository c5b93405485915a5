_base_ = "mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py"

panbench = {
    "title": "Mask2Former Swin-T",
    "family": "mask2former",
    "backbone": "Swin-T",
    "weights": "https://download.openmmlab.com/mmdetection/v3.0/mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic/"
    "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic_20220326_224553-3ec9e0ae.pth",
    "published": {
        "PQ": 0.534,
        "dataset": "coco",
        "split": "val2017",
        "source": "mmdetection 3.3.0, configs/mask2former/metafile.yml",
    },
    "params": 47_435_264,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "mmdetection 3.3.0, README.md",
    "system": "Mask2Former Swin-T",
}
