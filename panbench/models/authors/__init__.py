"""The authors' own weights of mmdet's three families, on mmdet's networks: names, and what mmdet does otherwise."""
