_base_ = ["mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py", "./_shapes.py"]

panbench = {
    "title": "MaskFormer tiny",
    "family": "maskformer",
    "backbone": "R18/16",
    "weights": "weights/maskformer-tiny.safetensors",
    "trained_on": "shapes",
    "license": "Apache-2.0",
    "license_source": "panbench",
    "params": 1_284_570,
    "input_size": "as is",
    "published": None,
}

num_things_classes = 5
num_stuff_classes = 4
num_classes = num_things_classes + num_stuff_classes
attention = dict(embed_dims=64, num_heads=4, dropout=0.0)
feed_forward = dict(embed_dims=64, feedforward_channels=256, ffn_drop=0.0)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        depth=18,
        base_channels=16,
        # The last stage keeps stride 16: on small images stride 32 leaves the queries too little to look at.
        strides=(1, 2, 2, 1),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        init_cfg=None,
    ),
    panoptic_head=dict(
        in_channels=[16, 32, 64, 128],
        feat_channels=64,
        out_channels=64,
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        num_queries=24,
        pixel_decoder=dict(
            norm_cfg=dict(type="GN", num_groups=16),
            encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward)),
            positional_encoding=dict(num_feats=32),
        ),
        positional_encoding=dict(num_feats=32),
        transformer_decoder=dict(
            num_layers=4,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward),
        ),
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
        loss_dice=dict(loss_weight=5.0),
    ),
    panoptic_fusion_head=dict(num_things_classes=num_things_classes, num_stuff_classes=num_stuff_classes),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type="ClassificationCost", weight=1.0),
                dict(type="FocalLossCost", weight=20.0, binary_input=True),
                dict(type="DiceCost", weight=5.0, pred_act=True, eps=1.0),
            ]
        )
    ),
    test_cfg=dict(object_mask_thr=0.5, iou_thr=0.6),
)
test_dataloader = dict(dataset=dict(metainfo={{_base_.shapes_metainfo}}, pipeline={{_base_.shapes_pipeline}}))
