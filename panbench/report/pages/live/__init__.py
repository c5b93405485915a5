"""`panbench serve`: the report over all images of the runs in a folder, on this machine only."""
