_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py"

panbench = {
    "title": "Mask2Former R50",
    "family": "mask2former",
    "backbone": "R50",
    "aliases": ["mask2former"],
    "weights": "https://download.openmmlab.com/mmdetection/v3.0/mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic/"
    "mask2former_r50_8xb2-lsj-50e_coco-panoptic_20230118_125535-54df384a.pth",
    "published": {
        "PQ": 0.52,
        "dataset": "coco",
        "split": "val2017",
        "source": "mmdetection 3.3.0, configs/mask2former/metafile.yml",
    },
    "params": 44_036_998,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "mmdetection 3.3.0, README.md",
    "system": "Mask2Former R50",
}
