"""`eval --tta` and `--tiles`: views and tiles that cannot be are refused before PyTorch is loaded."""

from support import refuses_without_torch


def test_views_that_there_are_not_are_refused_without_pytorch(tmp_path):
    line = ["eval", "--model", "mask2former-tiny", "--tta"]
    refuses_without_torch(
        tmp_path,
        [([*line, "hflip"], "--tta hflip: views are flip"), ([*line, "scales=9"], "scales lie between 0.1 and 4")],
    )


def test_tiles_that_cannot_be_are_refused_without_pytorch(tmp_path):
    line = ["eval", "--model", "mask2former-tiny", "--tiles"]
    refuses_without_torch(
        tmp_path,
        [
            ([*line, "4"], "--tiles '4': give rows x columns, as in 2x2 or 2x2,overlap=0.2."),
            ([*line, "9x9"], "--tiles 9x9: there can be 1 to 8 rows and 1 to 8 columns of tiles."),
            ([*line, "2x2,overlap=0.9"], "--tiles 'overlap=0.9': neighbours share from 0 to 0.5 of a tile's side"),
            ([*line, "2x2", "--layers", "all"], "--tiles shows a network parts of images, and --layers whole ones."),
        ],
    )
