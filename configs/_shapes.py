# What the three tiny models share: the categories of `shapes` in label order, and images taken as they are.
shapes_metainfo = dict(classes=("ball", "box", "triangle", "ring", "star", "sky", "grass", "sand", "brick"))
shapes_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale_factor=1.0, keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
