"""Runs the weights that Mask2Former's, MaskFormer's and detectron2's authors published, on mmdet's networks."""
