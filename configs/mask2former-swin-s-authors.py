_base_ = ["mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py", "./_authors.py"]

panbench = {
    "title": "Mask2Former Swin-S (authors)",
    "family": "mask2former",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "Swin-S",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/panoptic/maskformer2_swin_small_bs16_50ep/"
    "model_final_a407fd.pkl",
    "published": {
        "PQ": 0.546,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 68_753_168,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-S",
}

test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
