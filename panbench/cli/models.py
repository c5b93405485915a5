"""`panbench models`: what can be named, and its weights."""

from typing import Annotated

from panbench.base.reporter import counter
from panbench.cli import console
from panbench.cli.command import command, family, flag, model_names, option

app = family()


@command(app, "models", "panbench models", "panbench models --download mask2former-r50")
def models(
    as_json: Annotated[bool, flag("--json", "Print a list of objects.")] = False,
    download: Annotated[
        list[str] | None,
        option(
            "Fetch the weights of this model; several times or comma-separated.",
            None,
            "NAME",
            autocompletion=model_names,
        ),
    ] = None,
) -> None:
    """List the models: family, backbone, parameters, published PQ, input size, and whether the weights are here."""
    from panbench.catalog import load_catalog, resolve_models
    from panbench.report.tables import models_record, models_text

    if download:
        from panbench.models.checkpoints import fetch_weights

        for spec in resolve_models(download):
            with console.Bars() as bars:
                path = fetch_weights(spec, progress=counter(bars, f"{spec.title}: weights", "bytes"))
            console.wrote([path])
        return
    specs = list(load_catalog().values())
    if as_json:
        console.show_json([models_record(spec) for spec in specs])
    else:
        console.show(models_text(specs))
