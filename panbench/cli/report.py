"""`panbench report`, `panbench show …` and `panbench predict`: pages, pictures and plots."""

import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panbench.base import program
from panbench.base.errors import BadArgument, BadRun
from panbench.base.places import load
from panbench.base.studies import SHOW, find_studies, named
from panbench.base.threads import one_thread_for_blas
from panbench.catalog import (
    check_checkpoint,
    choose_models,
    random_seed,
    split_rules,
    weights_named,
)
from panbench.cli import console
from panbench.cli.command import (
    Checkpoint,
    Claims,
    Config,
    Device,
    Download,
    Models,
    Orientation,
    OwnSlices,
    Raw,
    Rules,
    Runs,
    Things,
    command,
    exif_option,
    family,
    find_runs,
    flag,
    may_download_weights,
    note_damage,
)
from panbench.panoptic.image_ids import own_id, typed

if TYPE_CHECKING:
    from panbench.report.figures.pictures import Layer, Photo
    from panbench.runs import Run

app = family()
show_app = family("show", "Draw pictures and plots of stored runs: PNG, SVG or PDF.")

TRUTH = "gt"


class View(str, Enum):
    """How a map is shown."""

    panoptic = "panoptic"
    instance = "instance"
    semantic = "semantic"


class Coloring(str, Enum):
    """How a judged map is coloured."""

    errors = "errors"
    categories = "categories"


class Picture(str, Enum):
    """Formats of pictures."""

    png = "png"
    svg = "svg"
    pdf = "pdf"


def _path_option(name: str, help: str, metavar: str = "DIR") -> Any:
    return typer.Option(name, help=help, metavar=metavar, rich_help_panel="Where the data is, if it has moved")


_Image = Annotated[int, typer.Option("--image", parser=typed, metavar="ID", help="The image's id.")]
_Width = Annotated[float, typer.Option("--width", metavar="INCHES", help="Width of the figure.")]
_Dpi = Annotated[float, typer.Option("--dpi", metavar="N", min=20, max=2400, help="Dots per inch of a PNG.")]
_Names = Annotated[bool, typer.Option("--names/--no-names", help="Write the categories on the segments.")]
_Scores = Annotated[bool, typer.Option("--scores", help="Write the scores, too.")]
_Coloring = Annotated[
    Coloring, typer.Option("--colors", help="errors: what is wrong, over the photograph; categories: all segments.")
]
_Opacity = Annotated[float, typer.Option("--opacity", min=0, max=1, metavar="0-1", help="Of the segments' colours.")]
_Images = Annotated[Path | None, _path_option("--images", "The folder of images.")]
_Gt = Annotated[Path | None, _path_option("--gt", "The ground truth's JSON.", "FILE.json")]
_GtDir = Annotated[Path | None, _path_option("--gt-dir", "The folder of its PNGs.")]
_View = Annotated[
    View, typer.Option("--view", help="panoptic: all segments; instance: things alone; semantic: categories as one.")
]
_Common = Annotated[bool, typer.Option("--common-images", help="Use the images that all runs have.")]


def _out(default: str) -> Any:
    return typer.Option("--out", "-o", metavar="FILE", help=f"The extension selects the format. Default: {default}.")


@command(app, "report", "panbench report results/maskformer results/mask2former --out page.html")
def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The file to write.")] = Path(
        "report.html"
    ),
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="The page's title.")] = None,
    examples: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="The most images in the gallery; default: 96.")
    ] = None,
    image: Annotated[
        list[int] | None,
        typer.Option("--image", parser=typed, metavar="ID", help="An image for the gallery; repeatable."),
    ] = None,
    common_images: _Common = False,
    slices: OwnSlices = None,
    published: Claims = None,
    open_it: Annotated[bool, flag("--open", "Open the page in the browser.")] = False,
    images: _Images = None,
    gt: _Gt = None,
    gt_dir: _GtDir = None,
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
    note_damage(stored)
    console.wrote([written])
    if open_it:
        import webbrowser

        webbrowser.open(written.resolve().as_uri())


@command(show_app, "overlay", "panbench show overlay results/mine --image 139 --out overlay.png")
def overlay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    image: _Image,
    out: Annotated[Path | None, _out("overlay-RUN-ID.png")] = None,
    truth: Annotated[bool, typer.Option("--truth", help="Show the ground truth instead.")] = False,
    view: _View = View.panoptic,
    colors: _Coloring = Coloring.errors,
    names: _Names = True,
    scores: _Scores = False,
    opacity: _Opacity = 0.5,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    images: _Images = None,
    gt: _Gt = None,
    gt_dir: _GtDir = None,
) -> None:
    """Lay the segments of one run over an image."""
    from panbench.report.figures.pictures import overlay_figure
    from panbench.runs import load_run

    loaded = load_run(run)
    photo, layers = _layers([TRUTH if truth else loaded], image, loaded, images, gt, gt_dir, view)
    figure = overlay_figure(
        photo,
        layers[0],
        loaded.categories,
        width=width,
        opacity=opacity,
        names=names,
        scores=scores,
        coloring=colors.value,
    )
    _save(figure, out or Path(f"overlay-{'truth' if truth else loaded.name}-{_in_name(image)}.png"), [loaded], dpi)


@command(show_app, "side-by-side", "panbench show side-by-side results/one results/other --image 139")
def side_by_side(
    runs: Runs,
    image: Annotated[
        str,
        typer.Option("--image", metavar="ID|worst:N", help="The image's id, or the N of lowest PQ of the first run."),
    ],
    out: Annotated[Path | None, _out("side-by-side-ID.png")] = None,
    columns: Annotated[int | None, typer.Option(min=1, metavar="N", help="Panels in a row.")] = None,
    view: _View = View.panoptic,
    colors: _Coloring = Coloring.errors,
    names: _Names = True,
    scores: _Scores = False,
    opacity: _Opacity = 0.6,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    images: _Images = None,
    gt: _Gt = None,
    gt_dir: _GtDir = None,
) -> None:
    """Show an image, its ground truth and the predictions of runs side by side."""
    from panbench.report.figures.pictures import side_by_side_figure

    loaded = _load(runs)
    asked = re.fullmatch(r"worst:(\d+)", image)
    for one in [typed(image)] if asked is None else _worst_images(loaded[0], int(asked[1])):
        photo, layers = _layers([TRUTH, *loaded], one, loaded[0], images, gt, gt_dir, view)
        figure = side_by_side_figure(
            photo,
            layers,
            loaded[0].categories,
            width=width,
            columns=columns,
            opacity=opacity,
            names=names,
            scores=scores,
            coloring=colors.value,
        )
        target = out or Path("side-by-side.png")
        own_name = f"{target.stem}-{_in_name(one)}{target.suffix}"
        _save(figure, target if out and asked is None else target.with_name(own_name), loaded, dpi)


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
    out: Annotated[Path | None, _out("diff-ID.png")] = None,
    view: _View = View.panoptic,
    names: _Names = True,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    images: _Images = None,
    gt: _Gt = None,
    gt_dir: _GtDir = None,
) -> None:
    """Show where two runs disagree on an image: in category, in instances, or only along boundaries."""
    from panbench.report.figures.pictures import diff_figure

    if a == b == TRUTH:
        raise BadArgument("gt and gt do not differ. Name a run.")
    loaded = _load([Path(one) for one in (a, b) if one != TRUTH])
    waiting = iter(loaded)
    wanted = [TRUTH if one == TRUTH else next(waiting) for one in (a, b)]
    photo, (left, right) = _layers(wanted, image, loaded[0], images, gt, gt_dir, view)
    figure = diff_figure(photo, left, right, loaded[0].categories, width=width, names=names)
    _save(figure, out or Path(f"diff-{image}.png"), loaded, dpi)


@command(
    show_app,
    "errors",
    "panbench show errors results/mine --cause missed --out missed.png",
    "panbench show errors results/mine --against results/other --category person",
)
def errors(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path | None, _out("errors-RUN.png")] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="RUN", help="Beside each what this run has at the same place.")
    ] = None,
    cause: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this cause: missed, merged …")] = None,
    category: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this category.")] = None,
    size: Annotated[str | None, typer.Option(metavar="SIZE", help="Only small, medium or large ones.")] = None,
    slice: Annotated[
        str | None, typer.Option("--slice", metavar="NAME", help="Only in images of this slice of --slices.")
    ] = None,
    slices: Annotated[
        Path | None, typer.Option("--slices", metavar="FILE", help="Sets of images, JSON or CSV (docs/ci.md).")
    ] = None,
    most: Annotated[int, typer.Option("--most", metavar="N", min=1, max=200, help="How many.")] = 12,
    columns: Annotated[int, typer.Option(min=1, metavar="N", help="Crops in a row.")] = 4,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    images: _Images = None,
    gt: _Gt = None,
    gt_dir: _GtDir = None,
) -> None:
    """Cut a run's costliest errors out of their images, by the PQ that fixing each would win."""
    from panbench.report.answers.own_slices import images_of_slice, slices_for
    from panbench.report.answers.views import compared
    from panbench.report.figures.crops import errors_figure
    from panbench.report.figures.pictures import Pictures

    if (slice is None) != (slices is None):
        raise BadArgument("--slice NAME and --slices FILE belong together: the file says which images the slice has.")
    loaded = _load([run, *([against] if against else [])])
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
    _save(figure, out or Path(f"errors-{loaded[0].name}.png"), loaded, dpi)


def _plot_kinds(incomplete: str) -> list[str]:
    from panbench.report.figures.plots import kinds

    return [name for name in kinds() if name.startswith(incomplete)]


# The core's kinds that any number of runs has (a test holds them against PLOTS): help comes without NumPy and pandas.
_PLOTS = "intervals speed params gflops categories causes size share segments supercategory thresholds".split()


@command(show_app, "plot", "panbench show plot causes results/mine --csv")
def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            autocompletion=_plot_kinds,
            help=f"{', '.join([*_PLOTS, *named('plots')])}, confusion (of one run) or images (of two).",
        ),
    ],
    runs: Runs,
    out: Annotated[Path | None, _out("KIND.pdf")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write the numbers beside the plot, as CSV.")] = False,
    raw: Raw = False,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    font: Annotated[str | None, typer.Option(metavar="NAME", help="A font family that is installed.")] = None,
    font_size: Annotated[
        float | None, typer.Option("--font-size", metavar="POINTS", help="Default: 8, and 7 below 5 inches.")
    ] = None,
    common_images: _Common = False,
    published: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="For params and gflops: also published results, hollow; repeatable."),
    ] = None,
) -> None:
    """Draw a plot of runs for a paper: vector graphics, and the numbers beside it."""
    from panbench.report.answers.published import claims_beside
    from panbench.report.answers.stored import refuse_inputs
    from panbench.report.answers.views import compared
    from panbench.report.figures.plots import check_kind, write_plot

    check_kind(kind, bool(published))
    members, found = compared(find_runs(runs), common_images=common_images)
    target = out or Path(f"{kind}.pdf")
    for place in (target, target.with_suffix(".csv")):
        refuse_inputs(place, [member.run for member in members])
    console.wrote(
        write_plot(
            kind,
            members,
            target,
            published=claims_beside(found.rows, published) if published else (),
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
)
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Photographs, or folders of them.")],
    model: Models = None,
    config: Config = None,
    checkpoint: Checkpoint = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write to.")] = Path(
        "predictions"
    ),
    things: Things = None,
    download: Download = False,
    device: Device = "auto",
    rule: Rules = None,
    view: _View = View.panoptic,
    exif: Annotated[Orientation, exif_option()] = Orientation.apply,
    format: Annotated[Picture, typer.Option("--format", "-f", help="Of the overlays.")] = Picture.png,
    names: _Names = True,
    scores: _Scores = False,
    opacity: _Opacity = 0.5,
    width: _Width = 7.0,
    dpi: _Dpi = 200,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output of an earlier call.")] = False,
) -> None:
    """Segment your own photographs: an overlay and an id PNG for each, and one COCO panoptic JSON.

    Several models or rules get a folder each in --out, and one picture shows their results side by side.
    """
    from panbench.panoptic.photo_files import find_photographs

    specs = choose_models(model or [], config, checkpoint, things)
    check_checkpoint(checkpoint)
    find_photographs(images)
    if (out / "annotations").is_dir() or (out.is_dir() and any(out.samefile(path) for path in images if path.is_dir())):
        raise BadArgument(f"{out} is a folder of data. Pictures go into a folder of their own: --out DIR.")
    rules = [None] if rule is None else split_rules(rule)
    download = may_download_weights(specs, checkpoint, download)

    with program.importing():
        from panbench.evaluation.tools.photographs import segment_photographs, segment_side_by_side

    answers = [(spec, one) for spec in specs for one in rules]
    with console.Bars() as bars:
        settings: dict[str, Any] = {
            "weights": weights_named(checkpoint),
            "seed": random_seed(checkpoint) or 0,
            "device": device,
            "form": format.value,
            "view": view.value,
            "style": {"names": names, "scores": scores, "opacity": opacity, "width": width},
            "dpi": dpi,
            "overwrite": overwrite,
            "download": download,
            "exif": exif.choice,
            "reporter": bars,
        }
        if len(answers) == 1:
            wrote = segment_photographs(specs[0], images, out, rule=rules[0], **settings)
        else:
            wrote = segment_side_by_side(answers, images, out, **settings)
    console.wrote(wrote)


def _save(figure: Any, target: Path, runs: "Sequence[Run]", dpi: float) -> None:
    """Writes a picture of runs, but over none of the files that they were made from."""
    from panbench.report.answers.stored import refuse_inputs
    from panbench.report.figures.pictures import save_figure

    refuse_inputs(target, runs)
    save_figure(figure, target, dpi=dpi)
    console.wrote([target])


def _worst_images(run: "Run", most: int) -> list[int]:
    """The images of lowest PQ, the worst first."""
    from panbench.metrics.pq import ImageFold

    run.require_images("show")
    fold = ImageFold()
    run.fold(fold)
    return [int(image) for image in fold.table().sort_values("PQ", kind="stable")["image_id"][:most]]


def _in_name(image_id: int) -> str:
    """An image's id as a part of a file name."""
    return str(own_id(image_id)).replace("/", "-")


def _load(paths: Sequence[Path]) -> "list[Run]":

    runs = find_runs(paths)
    if not runs:
        raise BadArgument("No run is named.")
    return runs


def _layers(
    wanted: "Sequence[Run | str]",
    image: int,
    source: "Run",
    images: Path | None,
    gt: Path | None,
    gt_dir: Path | None,
    view: View,
) -> "tuple[Photo, list[Layer]]":
    """The photograph of an image, and the layers of runs; TRUTH in place of a run is the ground truth."""
    from panbench.report.figures.pictures import Pictures, RunPictures, viewed
    from panbench.runs.alike import unlike

    pictures = Pictures(source, images=images, gt=gt, gt_dir=gt_dir)
    for run in wanted:
        if isinstance(run, str):
            continue
        if reason := unlike([source, run], "ground truth"):
            raise BadRun(f"{reason}: they share no images.")
    layers = [
        RunPictures(source).truth(image, pictures)
        if isinstance(run, str)
        else RunPictures(run).prediction(image, pictures)
        for run in wanted
    ]
    return pictures.photo(image), [viewed(layer, view.value, source.categories) for layer in layers]


for _study in find_studies():
    for _command in _study.commands:
        if _command.panel == SHOW:
            show_app.add_typer(load(_command.place))
app.add_typer(show_app)


@command(app, "site", "panbench site results/ --out site/")
def site(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new or empty folder, or an earlier site.")],
    title: Annotated[str, typer.Option(metavar="TEXT", help="The title.")] = "Panoptic segmentation, measured",
    examples: Annotated[int, typer.Option(min=0, metavar="N", help="The most images in each report.")] = 24,
) -> None:
    """Write a static site of many runs: a leaderboard with intervals and a report of each, for GitHub Pages."""
    from panbench.report.pages.site import write_site

    stored = find_runs(runs)
    with console.Bars(transient=True) as bars:
        index = write_site(stored, out, title=title, examples=examples, reporter=bars)
    note_damage(stored)
    console.wrote([index])
