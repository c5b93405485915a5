panbench = {
    "title": "DETR R101",
    "family": "detr",
    "backbone": "R101",
    "weights": None,
    "published": {
        "PQ": 0.451,
        "PQ_th": 0.505,
        "PQ_st": 0.37,
        "dataset": "coco",
        "split": "val2017",
        "source": "arXiv 2112.01527v3, table 1",
    },
    "params": None,
    "input_size": "800×1333",
    "trained_on": "coco",
    "settings": {"repository": "facebook/detr-resnet-101-panoptic"},
}
