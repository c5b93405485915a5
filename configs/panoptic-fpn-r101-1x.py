_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r101_fpn_1x_coco.py"

panbench = {
    "title": "Panoptic FPN R101 1x",
    "family": "panoptic-fpn",
    "backbone": "R101",
    "weights": "https://download.openmmlab.com/mmdetection/v2.0/panoptic_fpn/panoptic_fpn_r101_fpn_1x_coco/"
    "panoptic_fpn_r101_fpn_1x_coco_20210820_193950-ab9157a2.pth",
    "published": {
        "PQ": 0.422,
        "SQ": 0.783,
        "RQ": 0.514,
        "PQ_th": 0.501,
        "SQ_th": 0.814,
        "RQ_th": 0.599,
        "PQ_st": 0.303,
        "SQ_st": 0.736,
        "RQ_st": 0.385,
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
