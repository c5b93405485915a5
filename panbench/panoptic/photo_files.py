"""Finds the photographs that a user named, before anything is decoded."""

from collections.abc import Iterable
from pathlib import Path

from panbench.base.errors import BadDataset
from panbench.base.text import listed

__all__ = ["find_photographs"]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def find_photographs(images: Iterable[Path]) -> list[Path]:
    """The files among `images` and the images in its folders, sorted there. Raises BadDataset for missing files."""
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
            if not inside:
                raise BadDataset(f"{path} holds no image ({listed(ENDINGS)}).")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise BadDataset(f"There is no image {path}.")
    return list(dict.fromkeys(found))
