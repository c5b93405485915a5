_base_ = ["mmdet::maskformer/maskformer_swin-l-p4-w12_64xb1-ms-300e_coco.py", "./_authors.py"]

panbench = {
    "title": "MaskFormer Swin-S (authors)",
    "family": "maskformer",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "Swin-S",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/panoptic-coco/maskformer_panoptic_swin_small_bs64_554k/"
    "model_final_5bf6b1.pkl",
    "published": {
        "PQ": 0.497,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 63_070_544,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "system": "MaskFormer Swin-S",
}

model = dict(
    backbone=dict(embed_dims=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], window_size=7, pretrain_img_size=224),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)
test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
