"""panbench: run panoptic segmentation models, score them as panopticapi does, and compare them honestly."""

__version__ = "0.1.0"
