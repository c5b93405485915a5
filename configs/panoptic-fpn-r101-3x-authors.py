_base_ = ["mmdet::panoptic_fpn/panoptic-fpn_r101_fpn_ms-3x_coco.py", "./_authors.py"]

panbench = {
    "title": "Panoptic FPN R101 3x (authors)",
    "family": "panoptic-fpn",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "R101",
    "weights": "https://dl.fbaipublicfiles.com/detectron2/COCO-PanopticSegmentation/panoptic_fpn_R_101_3x/139514519/"
    "model_final_cafdb1.pkl",
    "published": {
        "PQ": 0.430,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/detectron2 02b5c4e, MODEL_ZOO.md",
    },
    "params": 65_019_238,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-SA-3.0",
    "license_source": "facebookresearch/detectron2 02b5c4e, MODEL_ZOO.md",
}

model = {{_base_.detectron2_model}}
test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
