# What the authors' own configs say and mmdet's do not: images are resized as detectron2 does it, by Pillow.
authors_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True, backend="pillow"),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
# Panoptic FPN of detectron2: Caffe's backbones (blue, green, red; no deviations; the stride in the 1×1), boxes of each
# class suppressed on their own. Instances of the map score 0.5 at least; the detector keeps those from 0.05.
detectron2_model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(style="caffe"),
    test_cfg=dict(rcnn=dict(score_thr=0.05, nms=dict(class_agnostic=False))),
)
