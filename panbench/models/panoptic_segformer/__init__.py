"""Panoptic SegFormer on mmdet's deformable DETR; its mask heads, scoring and merging are ours. [Li et al. 2022]"""
