"""The scenarios of scripts/check/torture.py."""
