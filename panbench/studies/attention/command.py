"""`panbench show attention`: draws what a transformer's queries attend to in an image, layer by layer."""

import os
from pathlib import Path
from typing import Annotated

from panbench.base.errors import BadArgument
from panbench.catalog import WITHOUT_QUERIES, choose_model, no_queries
from panbench.cli import console
from panbench.cli.command import Model, command, family, may_download_weights, option
from panbench.panoptic.image_ids import typed

app = family()


@command(
    app,
    "attention",
    "panbench show attention --model mask2former-tiny --photo photo.jpg",
    "panbench show attention --run results/mine --image 139 --category person",
)
def attention(
    model: Model = None,
    photo: Annotated[Path | None, option("Any photograph.", metavar="FILE")] = None,
    run: Annotated[Path | None, option("Use this run's model and weights, with --image.", metavar="DIR")] = None,
    image: Annotated[int | None, option("The id of an image of --run.", parser=typed, metavar="ID")] = None,
    query: Annotated[list[int] | None, option("A query, from 0; repeatable. Default: four.", metavar="N")] = None,
    category: Annotated[str | None, option("The queries that found this category.", metavar="NAME")] = None,
    layer: Annotated[list[int] | None, option("A decoder layer, from 1; repeatable.", metavar="N")] = None,
    out: Annotated[Path, option("The file to write: .png, .svg or .pdf.", metavar="FILE")] = Path("attention.png"),
) -> None:
    """Show what a transformer's queries look at, layer by layer, and the mask that each layer leads to."""
    of_run = run is not None and image is not None and photo is None
    if not of_run and (run is not None or image is not None or model is None or photo is None):
        raise BadArgument("Give --model and --photo, or --run and --image.")
    # A config is Python code: it runs only if the user names it or it comes with panbench.
    file = Path(model) if model is not None and model.endswith(".py") else None
    if of_run and model is not None and file is None:
        raise BadArgument("A run brings its model. Leave --model out, or name its config as --model FILE.py.")
    spec = None if model is None else choose_model(None if file else model, file, None, None)
    download = False
    if spec is not None:
        if spec.family in WITHOUT_QUERIES:
            raise no_queries(spec.title)
        if not of_run:
            download = may_download_weights([spec], None, bool(os.environ.get("PANBENCH_DOWNLOAD")))
    if photo is not None and out.exists() and out.samefile(photo):
        raise BadArgument(f"{out} is the photograph. Give another --out.")

    from panbench.report.answers.stored import refuse_inputs
    from panbench.report.figures.pictures import save_figure
    from panbench.runs import load_run
    from panbench.studies.attention.answer import attention_in_photo, attention_in_run

    wishes = {"queries": query or (), "category": category, "layers": layer or ()}
    with console.Bars() as bars:
        if run is not None and image is not None:
            figure = attention_in_run(run, image, wishes, spec=spec, reporter=bars)
        else:
            assert spec is not None
            assert photo is not None
            figure = attention_in_photo(spec, photo, wishes, download=download, reporter=bars)
    refuse_inputs(out, [] if run is None else [load_run(run)])
    save_figure(figure, out)
    console.wrote([out])
