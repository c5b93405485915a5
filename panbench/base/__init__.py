"""What every room stands on: errors, files, downloads, text, provenance; nothing of panoptic segmentation."""
