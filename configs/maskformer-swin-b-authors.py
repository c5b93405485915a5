_base_ = ["mmdet::maskformer/maskformer_swin-l-p4-w12_64xb1-ms-300e_coco.py", "./_authors.py"]

panbench = {
    "title": "MaskFormer Swin-B (IN-21k) (authors)",
    "family": "maskformer",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "Swin-B",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/panoptic-coco/maskformer_panoptic_swin_base_IN21k_384_bs64_554k/"
    "model_final_4b7f49.pkl",
    "published": {
        "PQ": 0.518,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    },
    "params": 101_825_022,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/MaskFormer da3e60d, MODEL_ZOO.md",
    "system": "MaskFormer Swin-B",
}

model = dict(
    backbone=dict(embed_dims=128, num_heads=[4, 8, 16, 32]),
    panoptic_head=dict(in_channels=[128, 256, 512, 1024]),
)
test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
