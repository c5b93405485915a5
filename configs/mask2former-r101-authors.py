_base_ = ["mmdet::mask2former/mask2former_r101_8xb2-lsj-50e_coco-panoptic.py", "./_authors.py"]

panbench = {
    "title": "Mask2Former R101 (authors)",
    "family": "mask2former",
    "adapter": "panbench.models.authors.adapter:AuthorsAdapter",
    "backbone": "R101",
    "weights": "https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/panoptic/maskformer2_R101_bs16_50ep/"
    "model_final_b807bd.pkl",
    "published": {
        "PQ": 0.526,
        "dataset": "coco",
        "split": "val2017",
        "source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    },
    "params": 63_029_126,
    "input_size": "800×1333",
    "trained_on": "coco",
    "license": "CC-BY-NC-4.0",
    "license_source": "facebookresearch/Mask2Former 9b0651c, MODEL_ZOO.md",
    "system": "Mask2Former R101",
}

test_dataloader = dict(dataset=dict(pipeline={{_base_.authors_pipeline}}))
