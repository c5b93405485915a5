"""Mask DINO on mmdet's deformable encoder and DINO decoder layers; the rest is ours. [Li et al. 2023]"""
