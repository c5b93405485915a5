_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py"

panbench = {
    "title": "Panoptic FPN R50 1x",
    "family": "panoptic-fpn",
    "backbone": "R50",
    "weights": "https://download.openmmlab.com/mmdetection/v2.0/panoptic_fpn/panoptic_fpn_r50_fpn_1x_coco/"
    "panoptic_fpn_r50_fpn_1x_coco_20210821_101153-9668fd13.pth",
    "published": {
        "PQ": 0.402,
        "SQ": 0.778,
        "RQ": 0.493,
        "PQ_th": 0.478,
        "SQ_th": 0.809,
        "RQ_th": 0.575,
        "PQ_st": 0.289,
        "SQ_st": 0.731,
        "RQ_st": 0.37,
        "dataset": "coco",
        "split": "val2017",
        "source": "mmdetection, configs/panoptic_fpn/README.md; PQ as in metafile.yml of 3.3.0",
    },
    "params": 46_027_110,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "Apache-2.0",
    "license_source": "mmdetection 3.3.0, README.md",
    "system": "Panoptic FPN R50",
}
