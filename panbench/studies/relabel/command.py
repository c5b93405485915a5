"""`panbench relabel`: the same predictions on two ground truths."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from panbench.base.errors import BadArgument
from panbench.cli import console
from panbench.cli.command import AsJson, command, family, flag, option, run_folders

app = family()


@command(
    app,
    "relabel",
    "panbench relabel panoptic_val2017.json relabeled_val.json --runs results",
    "panbench relabel a.json b.json --runs results/x results/y --out relabelled",
    needs={"gt_a": ("--runs",), "--pictured": ("--out",), "--images": ("--out",)},
)
def relabel(
    gt_a: Annotated[Path, typer.Argument(metavar="GT_A", help="A ground truth: COCO panoptic JSON.")],
    gt_b: Annotated[Path, typer.Argument(metavar="GT_B", help="Another one of the same images.")],
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]", help="Further runs, as for --runs.", autocompletion=run_folders),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        option(
            "What to score: runs with stored predictions, folders of such, predictions JSONs.",
            None,
            "RUN",
            autocompletion=run_folders,
        ),
    ] = None,
    gt_dir_a: Annotated[Path | None, option("The id PNGs of GT_A. Default: its path without .json.", None, "DIR")] = (
        None
    ),
    gt_dir_b: Annotated[Path | None, option("The same for GT_B.", None, "DIR")] = None,
    category_map: Annotated[str | None, option("A category map from GT_B to GT_A.", None, "FILE.json")] = None,
    common_images: Annotated[bool, flag("--common-images", "Compare on the images that all of them have.")] = False,
    suspects: Annotated[int, option("Suspect labels to print, of each truth.", None, "N", min=0)] = 10,
    out: Annotated[Path | None, option("Write a page with pictures, JSON and CSV into this folder.", None, "DIR")] = (
        None
    ),
    pictured: Annotated[int | None, option("Suspects on the page, of each truth. Default: 60.", None, "N", min=0)] = (
        None
    ),
    images: Annotated[Path | None, option("The photographs. Default: where the runs had them.", None, "DIR")] = None,
    as_json: AsJson = False,
) -> None:
    """Score predictions on two truths: rank changes, how far the truths agree, and labels that look wrong.

    Two annotators, or COCO and COCONut. Runs need their predictions: `eval --save-predictions` or `score`.
    """
    from panbench.studies.relabel.answer import find_predictions, mapped_truth, read_truth
    from panbench.studies.relabel.answer import relabel as compare_truths
    from panbench.studies.relabel.page import write_relabelling

    if out is not None and out.exists() and not out.is_dir():
        raise BadArgument(f"{out} is a file. Give a folder with --out.")
    paths = [*(runs or []), *(more or [])]
    truth_a, truth_b = read_truth(gt_a, gt_dir_a), read_truth(gt_b, gt_dir_b)
    with console.Bars(transient=True) as bars, TemporaryDirectory(prefix="panbench-") as folder:
        if category_map is not None:
            truth_b = mapped_truth(truth_b, truth_a, category_map, Path(folder), bars)
        answers = find_predictions(paths, bars)
        found = compare_truths(truth_a, truth_b, answers, common_images=common_images, reporter=bars)
        wrote = []
        if out is not None:
            photos = images or next((path for answer in answers if (path := answer.photos)), None)
            wrote = write_relabelling(
                found, out, images=photos, pictured=60 if pictured is None else pictured, reporter=bars
            )
    if as_json:
        console.show_json(found.record())
    else:
        console.show(found.message)
        console.show("")
        console.show_grids(found.grids(suspects))
    if len(answers) == 1:
        console.note(
            "With a single run, every disagreement is a suspect; agreement of several runs is far stronger evidence."
        )
    if out is not None and not as_json:
        console.wrote(wrote)
