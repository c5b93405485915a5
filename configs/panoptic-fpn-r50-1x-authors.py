_base_ = ["mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", "./_authors.py"]

panbench = {
    "title": "Panoptic FPN R50 1x (authors)",
    "family": "panoptic-fpn",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "R50",
    "weights": "https://dl.fbaipublicfiles.com/detectron2/COCO-PanopticSegmentation/panoptic_fpn_R_50_1x/139514544/"
    "model_final_dbfeb4.pkl",
    "published": {
        "PQ": 0.394,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/detectron2 02b5c4e, MODEL_ZOO.md",
    },
    "params": 46_027_110,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-SA-3.0",
    "license_source": "facebookresearch/detectron2 02b5c4e, MODEL_ZOO.md",
}

model = {{_base_.detectron2_model}}
test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
