_base_ = ["mmdet::maskformer/maskformer_swin-l-p4-w12_64xb1-ms-300e_coco.py", "./_authors.py"]

panbench = {
    "title": "MaskFormer Swin-L (IN-21k) (authors)",
    "family": "maskformer",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "Swin-L",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/panoptic-coco/maskformer_panoptic_swin_large_IN21k_384_bs64_554k/"
    "model_final_7505c4.pkl",
    "published": {
        "PQ": 0.527,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 211_571_258,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "system": "MaskFormer Swin-L",
}

test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
