_base_ = ["mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py", "./_shapes.py"]

panbench = {
    "title": "Mask2Former tiny",
    "family": "mask2former",
    "backbone": "R18/16",
    "weights": "weights/mask2former-tiny.safetensors",
    "trained_on": "shapes",
    "license": "Apache-2.0",
    "license_source": "panbench",
    "params": 1_078_330,
    "input_size": "as is",
    "published": None,
}

num_things_classes = 5
num_stuff_classes = 4
num_classes = num_things_classes + num_stuff_classes
attention = dict(embed_dims=64, num_heads=4)
feed_forward = dict(embed_dims=64, feedforward_channels=256)
model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(
        depth=18,
        base_channels=16,
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
            num_layers=3,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward),
        ),
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
    ),
    panoptic_fusion_head=dict(num_things_classes=num_things_classes, num_stuff_classes=num_stuff_classes),
    train_cfg=dict(num_points=1024),
    test_cfg=dict(instance_on=False),
)
test_dataloader = dict(dataset=dict(metainfo={{_base_.shapes_metainfo}}, pipeline={{_base_.shapes_pipeline}}))
