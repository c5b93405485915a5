_base_ = ["mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py", "./_authors.py"]

panbench = {
    "title": "Mask2Former Swin-T (authors)",
    "family": "mask2former",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "Swin-T",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/panoptic/maskformer2_swin_tiny_bs16_50ep/"
    "model_final_9fd0ae.pkl",
    "published": {
        "PQ": 0.532,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 47_435_264,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-T",
}

test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
