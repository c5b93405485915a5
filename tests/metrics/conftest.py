"""Fixtures of small scenes."""

from drawn_scenes import random_scenes, scene

__all__ = ["random_scenes", "scene"]
