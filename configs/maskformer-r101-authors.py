_base_ = ["mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py", "./_authors.py"]

panbench = {
    "title": "MaskFormer R101 (authors)",
    "family": "maskformer",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "R101",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/panoptic-coco/maskformer_panoptic_R101_bs64_554k/"
    "model_final_57b049.pkl",
    "published": {
        "PQ": 0.476,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 64_057_286,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "system": "MaskFormer R101",
}

model = dict(backbone=dict(depth=101))
test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
