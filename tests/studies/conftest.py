"""Fixtures that studies share with the rooms of the core."""

from drawn_scenes import random_scenes, scene
from report_runs import make_runs, shared_runs

__all__ = ["make_runs", "random_scenes", "scene", "shared_runs"]
