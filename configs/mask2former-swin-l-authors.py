_base_ = ["mmdet::mask2former/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic.py", "./_authors.py"]

panbench = {
    "title": "Mask2Former Swin-L (IN-21k) (authors)",
    "family": "mask2former",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "Swin-L",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/panoptic/maskformer2_swin_large_IN21k_384_bs16_100ep/"
    "model_final_f07440.pkl",
    "published": {
        "PQ": 0.578,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 215_535_610,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-L",
}

test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
