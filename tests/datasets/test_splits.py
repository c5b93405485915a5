"""`--data coco:test-dev`: a dataset and its split."""

import pytest

from panbench.datasets import split_of, without_split


@pytest.mark.parametrize(
    ("data", "name", "split"),
    [
        ("coco", "coco", "val"),
        ("coco:test-dev", "coco", "test-dev"),
        ("data/mine:train", "data/mine", "train"),
        ("shapes:480x640", "shapes:480x640", "val"),
        ("shapes:480x640:train", "shapes:480x640", "train"),
        (r"C:\sets\mine", r"C:\sets\mine", "val"),
        ("C:mine", "C:mine", "val"),
        ("odd:name/set", "odd:name/set", "val"),
    ],
)
def test_the_split_follows_the_last_colon(data, name, split):
    assert (without_split(data), split_of(data)) == (name, split)


def test_a_folder_with_a_colon_in_its_name_is_that_folder(tmp_path):
    folder = tmp_path / "set:one"
    folder.mkdir()
    assert (without_split(str(folder)), split_of(str(folder))) == (str(folder), "val")
    assert split_of(f"{folder}:train") == "train"


def test_without_data_the_split_is_val():
    assert split_of(None) == "val"
