"""Tools around the evaluation: benchmark, segmentation of photographs, check of the machine."""
