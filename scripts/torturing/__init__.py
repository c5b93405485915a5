"""The scenarios of scripts/torture.py."""
