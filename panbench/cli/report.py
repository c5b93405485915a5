"""Declares `panbench report`, `panbench show …` and `panbench predict`: pages, pictures and plots."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from panbench.base import program
from panbench.base.errors import BadArgument, BadRun
from panbench.base.program import one_thread_for_blas
from panbench.base.references import load
from panbench.base.studies import SHOW, find_studies, names_in_studies
from panbench.catalog import check_checkpoint, choose_models, random_seed, split_rules, weights_named
from panbench.cli import console
from panbench.cli.command import (
    Checkpoint,
    Claims,
    Config,
    Device,
    Download,
    Labels,
    Models,
    MovedImages,
    MovedPngs,
    MovedTruth,
    Orientation,
    OwnSlices,
    Raw,
    Rules,
    Runs,
    command,
    exif_option,
    family,
    find_runs,
    flag,
    may_download_weights,
    note_damaged_runs,
    option,
)
from panbench.panoptic.image_ids import own_id, typed

if TYPE_CHECKING:
    from panbench.report.figures.pictures import Layer, Photo
    from panbench.runs import Run

app = family()
show_app = family("show", "Draw pictures and plots of stored runs: PNG, SVG or PDF.")

TRUTH = "gt"


View = Literal["panoptic", "instance", "semantic"]
Coloring = Literal["errors", "categories"]


_Image = Annotated[int, option("The image's id.", metavar="ID", parser=typed)]
_Width = Annotated[float, option("Width of the figure.", metavar="INCHES")]
_Dpi = Annotated[float, option("Dots per inch of a PNG.", min=20, max=2400)]
_Names = Annotated[bool, flag("--names/--no-names", "Write the categories on the segments.")]
_Scores = Annotated[bool, flag("--scores", "Write the scores, too.")]
_Coloring = Annotated[Coloring, option("errors: what is wrong, over the photograph; categories: all segments.")]
_Opacity = Annotated[float, option("Of the segments' colours.", metavar="0-1", min=0, max=1)]
_View = Annotated[View, option("panoptic: all segments; instance: things alone; semantic: categories as one.")]
_Common = Annotated[bool, flag("--common-images", "Use the images that all runs have.")]


def _out_option(default: str) -> Any:
    """Declares --out, whose file extension selects the format."""
    return typer.Option("--out", "-o", metavar="FILE", help=f"The extension selects the format. Default: {default}.")


@command(app, "report", "panbench report results/maskformer results/mask2former --out page.html")
def report(
    runs: Runs,
    out: Annotated[Path, option("The file to write.", metavar="FILE.html")] = Path("report.html"),
    title: Annotated[str | None, option("The page's title.", metavar="TEXT")] = None,
    examples: Annotated[int | None, option("The most images in the gallery; default: 96.", min=0, metavar="N")] = None,
    image: Annotated[
        list[int] | None,
        option("An image for the gallery; repeatable.", parser=typed, metavar="ID"),
    ] = None,
    common_images: _Common = False,
    slices: OwnSlices = None,
    published: Claims = None,
    open_it: Annotated[bool, flag("--open", "Open the page in the browser.")] = False,
    images: MovedImages = None,
    gt: MovedTruth = None,
    gt_dir: MovedPngs = None,
) -> None:
    """Write one HTML file that shows runs: verdict, tables, charts and examples. It needs no network."""
    one_thread_for_blas()

    from panbench.report.pages.page.document import write_report

    stored = find_runs(runs)
    with console.Bars(transient=True) as bars:
        written = write_report(
            stored,
            out,
            title=title,
            examples=examples,
            image_ids=image or (),
            common_images=common_images,
            slices=slices,
            published=published or (),
            images=images,
            gt=gt,
            gt_dir=gt_dir,
            reporter=bars,
        )
    note_damaged_runs(stored)
    console.wrote([written])
    if open_it:
        import webbrowser

        webbrowser.open(written.resolve().as_uri())


@command(
    show_app,
    "overlay",
    "panbench show overlay results/mine --image 139 --out overlay.png",
    idle_beside={"--scores": ("--truth", "--no-names"), "--colors": ("--truth",)},
)
def overlay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    image: _Image,
    out: Annotated[Path | None, _out_option("overlay-RUN-ID.png")] = None,
    truth: Annotated[bool, flag("--truth", "Show the ground truth instead.")] = False,
    view: _View = "panoptic",
    colors: _Coloring = "errors",
    names: _Names = True,
    scores: _Scores = False,
    opacity: _Opacity = 0.5,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    images: MovedImages = None,
    gt: MovedTruth = None,
    gt_dir: MovedPngs = None,
) -> None:
    """Lay the segments of one run over an image."""
    from panbench.report.figures.pictures import overlay_figure
    from panbench.runs import load_run

    loaded = load_run(run)
    photo, layers = _photo_and_layers([TRUTH if truth else loaded], image, loaded, images, gt, gt_dir, view)
    figure = overlay_figure(
        photo,
        layers[0],
        loaded.categories,
        width=width,
        opacity=opacity,
        names=names,
        scores=scores,
        coloring=colors,
    )
    _save_picture(
        figure,
        out or Path(f"overlay-{'truth' if truth else loaded.name}-{_id_for_file_name(image)}.png"),
        [loaded],
        dpi,
    )


@command(
    show_app,
    "side-by-side",
    "panbench show side-by-side results/one results/other --image 139",
    idle_beside={"--scores": ("--no-names",)},
)
def side_by_side(
    runs: Runs,
    image: Annotated[
        str,
        option("The image's id, or the N of lowest PQ of the first run.", metavar="ID|worst:N"),
    ],
    out: Annotated[Path | None, _out_option("side-by-side-ID.png")] = None,
    columns: Annotated[int | None, option("Panels in a row.", min=1, metavar="N")] = None,
    view: _View = "panoptic",
    colors: _Coloring = "errors",
    names: _Names = True,
    scores: _Scores = False,
    opacity: _Opacity = 0.6,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    images: MovedImages = None,
    gt: MovedTruth = None,
    gt_dir: MovedPngs = None,
) -> None:
    """Show an image, its ground truth and the predictions of runs side by side."""
    from panbench.report.figures.pictures import side_by_side_figure

    loaded = _load_runs(runs)
    match = re.fullmatch(r"worst:(\d+)", image)
    for one in [typed(image)] if match is None else _worst_image_ids(loaded[0], int(match[1])):
        photo, layers = _photo_and_layers([TRUTH, *loaded], one, loaded[0], images, gt, gt_dir, view)
        figure = side_by_side_figure(
            photo,
            layers,
            loaded[0].categories,
            width=width,
            columns=columns,
            opacity=opacity,
            names=names,
            scores=scores,
            coloring=colors,
        )
        target = out or Path("side-by-side.png")
        own_name = f"{target.stem}-{_id_for_file_name(one)}{target.suffix}"
        _save_picture(figure, target if out and match is None else target.with_name(own_name), loaded, dpi)


@command(
    show_app,
    "diff",
    "panbench show diff gt results/mine --image 139",
    "panbench show diff results/one results/other --image 139 --out diff.svg",
)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run folder, or gt for the ground truth.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, or gt.")],
    image: _Image,
    out: Annotated[Path | None, _out_option("diff-ID.png")] = None,
    view: _View = "panoptic",
    names: _Names = True,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    images: MovedImages = None,
    gt: MovedTruth = None,
    gt_dir: MovedPngs = None,
) -> None:
    """Show where two runs disagree on an image: in category, in instances, or only along boundaries."""
    from panbench.report.figures.pictures import diff_figure

    if a == b == TRUTH:
        raise BadArgument("gt and gt do not differ. Name a run.")
    loaded = _load_runs([Path(one) for one in (a, b) if one != TRUTH])
    waiting = iter(loaded)
    requested = [TRUTH if one == TRUTH else next(waiting) for one in (a, b)]
    photo, (left, right) = _photo_and_layers(requested, image, loaded[0], images, gt, gt_dir, view)
    figure = diff_figure(photo, left, right, loaded[0].categories, width=width, names=names)
    _save_picture(figure, out or Path(f"diff-{image}.png"), loaded, dpi)


@command(
    show_app,
    "errors",
    "panbench show errors results/mine --cause missed --out missed.png",
    "panbench show errors results/mine --against results/other --category person",
)
def errors(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path | None, _out_option("errors-RUN.png")] = None,
    against: Annotated[
        Path | None, option("Show next to each error what this run predicts there.", metavar="RUN")
    ] = None,
    cause: Annotated[str | None, option("Only of this cause: missed, merged …", metavar="NAME")] = None,
    category: Annotated[str | None, option("Only of this category.", metavar="NAME")] = None,
    size: Annotated[str | None, option("Only small, medium or large ones.", metavar="SIZE")] = None,
    slice: Annotated[str | None, option("Only in images of this slice of --slices.", metavar="NAME")] = None,
    slices: Annotated[Path | None, option("Sets of images, JSON or CSV (docs/ci.md).", metavar="FILE")] = None,
    most: Annotated[int, option("How many.", metavar="N", min=1, max=200)] = 12,
    columns: Annotated[int, option("Crops in a row.", min=1, metavar="N")] = 4,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    images: MovedImages = None,
    gt: MovedTruth = None,
    gt_dir: MovedPngs = None,
) -> None:
    """Cut a run's costliest errors out of their images, by the PQ that fixing each would win."""
    from panbench.report.answers.own_slices import images_of_slice, slices_for
    from panbench.report.answers.views import compared
    from panbench.report.figures.crops import errors_figure
    from panbench.report.figures.pictures import Pictures

    if (slice is None) != (slices is None):
        raise BadArgument("--slice NAME and --slices FILE belong together: the file says which images the slice has.")
    loaded = _load_runs([run, *([against] if against else [])])
    members, _ = compared(loaded)
    figure = errors_figure(
        members,
        Pictures(loaded[0], images=images, gt=gt, gt_dir=gt_dir),
        cause=cause,
        category=category,
        size=size,
        images=None if slice is None else images_of_slice(slices_for(slices, loaded), slice),
        most=most,
        columns=columns,
        width=width,
    )
    _save_picture(figure, out or Path(f"errors-{loaded[0].name}.png"), loaded, dpi)


def _complete_plot_kind(incomplete: str) -> list[str]:
    """Completes the kind of a plot in the shell."""
    from panbench.report.figures.plots import kinds

    return [name for name in kinds() if name.startswith(incomplete)]


# The core's plots for any number of runs (a test compares them with PLOTS), so that help needs no NumPy and pandas.
_PLOTS = "intervals speed params gflops categories causes size share segments supercategory thresholds".split()


@command(show_app, "plot", "panbench show plot causes results/mine --csv", needs={"--raw": ("--csv",)})
def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            autocompletion=_complete_plot_kind,
            help=f"{', '.join([*_PLOTS, *names_in_studies('plots')])}, confusion (of one run) or images (of two).",
        ),
    ],
    runs: Runs,
    out: Annotated[Path | None, _out_option("KIND.pdf")] = None,
    csv: Annotated[bool, flag("--csv", "Also write the plot's numbers, as CSV.")] = False,
    raw: Raw = False,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    font: Annotated[str | None, option("A font family that is installed.", metavar="NAME")] = None,
    font_size: Annotated[float | None, option("Default: 8, and 7 below 5 inches.", metavar="POINTS")] = None,
    common_images: _Common = False,
    published: Annotated[
        list[str] | None,
        option("For params and gflops: also published results, hollow; repeatable.", metavar="NAME"),
    ] = None,
) -> None:
    """Draw a plot of runs for a paper: vector graphics, and its numbers with --csv."""
    from panbench.report.answers.published import published_claims
    from panbench.report.answers.stored import refuse_inputs
    from panbench.report.answers.views import compared
    from panbench.report.figures.plots import check_kind, write_plot

    check_kind(kind, bool(published))
    members, found = compared(find_runs(runs), common_images=common_images)
    target = out or Path(f"{kind}.pdf")
    for path in (target, target.with_suffix(".csv")):
        refuse_inputs(path, [member.run for member in members])
    console.wrote(
        write_plot(
            kind,
            members,
            target,
            published=published_claims(found.rows, published) if published else (),
            data=csv,
            raw=raw,
            width=width,
            dpi=dpi,
            font=font,
            font_size=font_size,
        )
    )


@command(
    app,
    "predict",
    "panbench predict photo.jpg --model mask2former-tiny",
    "panbench predict photos/ -m maskformer-r50 -o out",
    "panbench predict photo.jpg -m mask2former-r50,maskformer-r50 --view semantic",
    needs={"images": ("--model", "--config")},
    idle_beside={"--scores": ("--no-names",)},
)
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Photographs, or folders of them.")],
    model: Models = None,
    config: Config = None,
    checkpoint: Checkpoint = None,
    out: Annotated[Path, option("The folder to write to.", metavar="DIR")] = Path("predictions"),
    labels: Labels = None,
    download: Download = False,
    device: Device = "auto",
    rule: Rules = None,
    view: _View = "panoptic",
    exif: Annotated[Orientation, exif_option()] = "apply",
    format: Annotated[Literal["png", "svg", "pdf"], typer.Option("--format", "-f", help="Of the overlays.")] = "png",
    names: _Names = True,
    scores: _Scores = False,
    opacity: _Opacity = 0.5,
    width: Annotated[
        float | None,
        option("Draw figures of this width; default: the photographs' pixels.", metavar="INCHES"),
    ] = None,
    dpi: Annotated[float | None, option("Dots per inch of these figures.", metavar="N", min=20, max=2400)] = None,
    overwrite: Annotated[bool, flag("--overwrite", "Replace the output of an earlier call.")] = False,
) -> None:
    """Segment your own photographs: an overlay and an id PNG for each, and one COCO panoptic JSON.

    Several models or rules get a folder each in --out, and one picture shows their results side by side.
    """
    from panbench.panoptic.photo import find_photographs

    specs = choose_models(model or [], config, checkpoint, labels)
    check_checkpoint(checkpoint)
    find_photographs(images)
    if (out / "annotations").is_dir() or (out.is_dir() and any(out.samefile(path) for path in images if path.is_dir())):
        raise BadArgument(f"{out} is a folder of data. Pictures go into a folder of their own: --out DIR.")
    rules = [None] if rule is None else split_rules(rule)
    download = may_download_weights(specs, checkpoint, download)

    with program.importing():
        from panbench.evaluation.tools.photographs import Drawing, segment_photographs, segment_side_by_side

    answers = [(spec, one) for spec in specs for one in rules]
    with console.Bars(transient=True) as bars:
        settings: dict[str, Any] = {
            "weights": weights_named(checkpoint),
            "seed": random_seed(checkpoint) or 0,
            "device": device,
            "drawing": Drawing(format, view, {"names": names, "scores": scores, "opacity": opacity}, width, dpi),
            "overwrite": overwrite,
            "download": download,
            "exif": exif,
            "reporter": bars,
        }
        if len(answers) == 1:
            wrote = segment_photographs(specs[0], images, out, rule=rules[0], **settings)
        else:
            wrote = segment_side_by_side(answers, images, out, **settings)
    console.wrote(wrote)


def _save_picture(figure: Any, target: Path, runs: "Sequence[Run]", dpi: float) -> None:
    """Writes a picture of runs; refuses to overwrite its inputs."""
    from panbench.report.answers.stored import refuse_inputs
    from panbench.report.figures.pictures import save_figure

    refuse_inputs(target, runs)
    save_figure(figure, target, dpi=dpi)
    console.wrote([target])


def _worst_image_ids(run: "Run", most: int) -> list[int]:
    """Returns the ids of the images with the lowest PQ, the lowest first."""
    from panbench.metrics.pq import ImageAccumulator

    run.require_images("show")
    accumulator = ImageAccumulator()
    run.accumulate(accumulator)
    return [int(image) for image in accumulator.table().sort_values("PQ", kind="stable")["image_id"][:most]]


def _id_for_file_name(image_id: int) -> str:
    """Makes an image's id safe for a file name."""
    return str(own_id(image_id)).replace("/", "-")


def _load_runs(paths: Sequence[Path]) -> "list[Run]":
    """Opens the runs of a command's RUN arguments. Raises BadArgument if there are none."""
    runs = find_runs(paths)
    if not runs:
        raise BadArgument("No run is named.")
    return runs


def _photo_and_layers(
    requested: "Sequence[Run | str]",
    image: int,
    source: "Run",
    images: Path | None,
    gt: Path | None,
    gt_dir: Path | None,
    view: View,
) -> "tuple[Photo, list[Layer]]":
    """Returns an image's photograph, and for each run or the ground truth an overlay of its segments."""
    from panbench.report.figures.pictures import Pictures, RunPictures, viewed
    from panbench.runs.comparable import why_incomparable

    pictures = Pictures(source, images=images, gt=gt, gt_dir=gt_dir)
    for run in requested:
        if isinstance(run, str):
            continue
        if reason := why_incomparable([source, run], "ground truth"):
            raise BadRun(f"{reason}: they share no images.")
    layers = [
        RunPictures(source).truth(image, pictures)
        if isinstance(run, str)
        else RunPictures(run).prediction(image, pictures)
        for run in requested
    ]
    return pictures.photo(image), [viewed(layer, view, source.categories) for layer in layers]


for _study in find_studies():
    for _command in _study.commands:
        if _command.panel == SHOW:
            show_app.add_typer(load(_command.reference))
app.add_typer(show_app)


@command(app, "site", "panbench site results/ --out site/")
def site(
    runs: Runs,
    out: Annotated[Path, option("A new or empty folder, or an earlier site.", metavar="DIR")],
    title: Annotated[str, option("The title.", metavar="TEXT")] = "Panoptic segmentation, measured",
    examples: Annotated[int, option("The most images in each report.", min=0, metavar="N")] = 24,
) -> None:
    """Write a static site of many runs: a leaderboard with intervals and a report of each, for GitHub Pages."""
    from panbench.report.pages.site import write_site

    stored = find_runs(runs)
    with console.Bars(transient=True) as bars:
        index = write_site(stored, out, title=title, examples=examples, reporter=bars)
    note_damaged_runs(stored)
    console.wrote([index])
