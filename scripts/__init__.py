"""Programs around panbench, no part of the installed package: scripts/README.md has a line on each."""
