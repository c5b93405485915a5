_base_ = ["mmdet::maskformer/maskformer_swin-l-p4-w12_64xb1-ms-300e_coco.py", "./_authors.py"]

panbench = {
    "title": "MaskFormer Swin-T (authors)",
    "family": "maskformer",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "Swin-T",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/panoptic-coco/maskformer_panoptic_swin_tiny_bs64_554k/"
    "model_final_539394.pkl",
    "published": {
        "PQ": 0.477,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 41_752_640,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "system": "MaskFormer Swin-T",
}

model = dict(
    backbone=dict(embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, pretrain_img_size=224),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)
test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
