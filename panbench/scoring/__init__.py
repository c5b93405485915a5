"""Predictions of anyone, scored without a model: folders of PNGs, and submissions to COCO's server."""
