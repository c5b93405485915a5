_base_ = ["mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py", "./_authors.py"]

panbench = {
    "title": "MaskFormer R50 (authors)",
    "family": "maskformer",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "R50",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/panoptic-coco/maskformer_panoptic_R50_bs64_554k/"
    "model_final_6f60dc.pkl",
    "published": {
        "PQ": 0.465,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 45_065_158,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "system": "MaskFormer R50",
}

test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
