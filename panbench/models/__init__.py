"""mmdet's panoptic models: the operators they need, their configs and weights, and how they are run."""
