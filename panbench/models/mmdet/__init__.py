"""MMDetection's panoptic models: their configs, the operators they need, and how they are run."""
