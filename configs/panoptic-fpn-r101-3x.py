_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r101_fpn_ms-3x_coco.py"

panbench = {
    "title": "Panoptic FPN R101 3x",
    "family": "panoptic-fpn",
    "backbone": "R101",
    "weights": "https://download.openmmlab.com/mmdetection/v2.0/panoptic_fpn/panoptic_fpn_r101_fpn_mstrain_3x_coco/"
    "panoptic_fpn_r101_fpn_mstrain_3x_coco_20210823_114712-9c99acc4.pth",
    "published": {
        "PQ": 0.441,
        "SQ": 0.789,
        "RQ": 0.536,
        "PQ_th": 0.521,
        "SQ_th": 0.817,
        "RQ_th": 0.623,
        "PQ_st": 0.32,
        "SQ_st": 0.746,
        "RQ_st": 0.403,
        "dataset": "coco",
        "split": "val2017",
        "source": "mmdetection, configs/panoptic_fpn/README.md; PQ as in metafile.yml of 3.3.0",
    },
    "params": 65_019_238,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "mmdetection 3.3.0, README.md",
    "system": "Panoptic FPN R101",
}
