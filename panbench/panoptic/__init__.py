"""Panoptic segmentation in memory and on disk: its vocabulary, id maps, the COCO format, and overlap tables."""
