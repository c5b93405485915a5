"""Models: opened, loaded with weights, run; their outputs fused to panoptic maps."""
