"""`panbench fuse`: a fusion rule on raw arrays of any framework."""

from pathlib import Path
from typing import Annotated

from panbench.base.errors import BadArgument
from panbench.cli import console
from panbench.cli.command import command, family, flag, option

app = family()


@command(
    app,
    "fuse",
    "panbench fuse --arrays outputs.npz --rule mask2former --out maps.npz",
    "panbench fuse --arrays outputs.npz --rule mask2former:score=0.7 --out mine",
)
def fuse(
    arrays: Annotated[Path, option("Raw outputs; docs/fusion.md has the names of the arrays.", metavar="FILE.npz")],
    rule: Annotated[str, option("A rule, with thresholds after a colon.", metavar="NAME[:KEY=VALUE,…]")],
    out: Annotated[
        Path, option("FILE.npz for arrays, a folder for COCO panoptic PNGs and JSON.", metavar="FILE.npz|DIR")
    ],
    overwrite: Annotated[bool, flag("--overwrite", "Replace predictions that are already in the folder.")] = False,
) -> None:
    """Merge raw masks and scores into panoptic maps, by the rule of any paper."""
    if out.suffix == ".npz" and out.is_dir():
        raise BadArgument(f"{out} is a folder. Name a file, or a folder without the ending .npz.")

    from panbench.models.arrays import check_predictions, fuse_arrays, read_arrays, write_maps, write_predictions
    from panbench.models.rules import parse_rule

    chosen = parse_rule(rule)
    read = read_arrays(arrays)
    if out.suffix != ".npz":
        check_predictions(read, out, overwrite=overwrite)
    maps = list(fuse_arrays(read, chosen))
    if out.suffix == ".npz":
        write_maps(out, maps, chosen)
        console.wrote([out])
    else:
        console.wrote([write_predictions(read, out, maps)])
    void = sum(int((ids == 0).sum()) for ids, _ in maps) / max(1, sum(ids.size for ids, _ in maps))
    segments = sum(len(found) for _, found in maps)
    console.say(f"{chosen}: {len(maps)} images, {segments} segments, {100 * void:.1f} % void")
