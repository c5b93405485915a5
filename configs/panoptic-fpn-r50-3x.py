_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_ms-3x_coco.py"

panbench = {
    "title": "Panoptic FPN R50 3x",
    "family": "panoptic-fpn",
    "backbone": "R50",
    "aliases": ["panoptic-fpn"],
    "weights": "https://download.openmmlab.com/mmdetection/v2.0/panoptic_fpn/panoptic_fpn_r50_fpn_mstrain_3x_coco/"
    "panoptic_fpn_r50_fpn_mstrain_3x_coco_20210824_171155-5650f98b.pth",
    "published": {
        "PQ": 0.425,
        "SQ": 0.781,
        "RQ": 0.517,
        "PQ_th": 0.503,
        "SQ_th": 0.815,
        "RQ_th": 0.603,
        "PQ_st": 0.307,
        "SQ_st": 0.73,
        "RQ_st": 0.388,
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
