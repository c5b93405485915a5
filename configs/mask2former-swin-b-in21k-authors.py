_base_ = ["mmdet::mask2former/mask2former_swin-b-p4-w12-384-in21k_8xb2-lsj-50e_coco-panoptic.py", "./_authors.py"]

panbench = {
    "title": "Mask2Former Swin-B (IN-21k) (authors)",
    "family": "mask2former",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "Swin-B",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/panoptic/maskformer2_swin_base_IN21k_384_bs16_50ep/"
    "model_final_54b88a.pkl",
    "published": {
        "PQ": 0.564,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 106_917_822,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former Swin-B",
}

test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
