_base_ = ["mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", "./_shapes.py"]

panbench = {
    "title": "Panoptic FPN tiny",
    "family": "panoptic-fpn",
    "backbone": "R18/16",
    "weights": "weights/panoptic-fpn-tiny.safetensors",
    "trained_on": "shapes",
    "license": "Apache-2.0",
    "license_source": "panbench",
    "params": 1_172_051,
    "input_size": "as is",
    "published": None,
}

num_things_classes = 5
num_stuff_classes = 4
model = dict(
    backbone=dict(
        depth=18,
        base_channels=16,
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=48),
    rpn_head=dict(in_channels=48, feat_channels=48, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48, finest_scale=28),
        bbox_head=dict(in_channels=48, fc_out_channels=64, num_classes=num_things_classes),
        mask_roi_extractor=dict(out_channels=48, finest_scale=28),
        mask_head=dict(num_convs=2, in_channels=48, conv_out_channels=48, num_classes=num_things_classes),
    ),
    semantic_head=dict(
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        in_channels=48,
        inner_channels=48,
        norm_cfg=dict(type="GN", num_groups=16, requires_grad=True),
    ),
    panoptic_fusion_head=dict(num_things_classes=num_things_classes, num_stuff_classes=num_stuff_classes),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(score_thr=0.5),
        panoptic=dict(stuff_area_limit=32),
    ),
)
test_dataloader = dict(dataset=dict(metainfo={{_base_.shapes_metainfo}}, pipeline={{_base_.shapes_pipeline}}))
