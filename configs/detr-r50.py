panbench = {
    "title": "DETR R50",
    "family": "detr",
    "backbone": "R50",
    "aliases": ["detr"],
    "weights": None,
    "published": {
        "PQ": 0.434,
        "PQ_th": 0.482,
        "PQ_st": 0.363,
        "dataset": "coco",
        "split": "val2017",
        "source": "arXiv 2112.01527v3, table 1",
    },
    "params": None,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {"repository": "facebook/detr-resnet-50-panoptic"},
}
