"""Makes a command's options from the fields of a frozen dataclass, and of those that studies add."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from panbench.base.errors import PanbenchError
from panbench.base.studies import Option, added
from panbench.cli.command import flag, one_of, option

__all__ = ["options_from"]

Work = Callable[[typer.Context, Any, tuple[Any, ...]], None]


class DoubledOption(PanbenchError):
    """A study adds an option under a name that is taken."""


def options_from(request: type, command: str) -> Callable[[Work], Callable[..., None]]:
    """Declares the options of a command: a field of `request` each, and those that studies add to `command`.

    request: a frozen dataclass; a field's type is `Annotated[type, typer.Option(…)]`, its default the option's
    The decorated function is called with the context, the request, and the options of each study in their order; its
    docstring is the help. Raises DoubledOption when a study's option is one that the command has.
    """

    def declare(work: Work) -> Callable[..., None]:
        studies = added("options", command)
        fields = {request: _parameters(request)}
        taken = {parameter.name: "panbench" for parameter in fields[request]}
        for name, kind in studies.items():
            fields[kind] = _parameters(kind, panel=kind.panel)
            for parameter in fields[kind]:
                if parameter.name in taken:
                    raise DoubledOption(
                        f"The study {name} adds --{parameter.name.replace('_', '-')} to {command}, an option of "
                        f"{taken[parameter.name]}. Rename it, or uninstall one of the two."
                    )
                taken[parameter.name] = name

        def run(ctx: typer.Context, **values: Any) -> None:
            asked, *of_studies = (
                kind(**{parameter.name: values[parameter.name] for parameter in own}) for kind, own in fields.items()
            )
            work(ctx, asked, tuple(of_studies))

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        options = [parameter for own in fields.values() for parameter in own]
        # What Typer reads a command's options from.
        run.__signature__ = inspect.Signature([context, *options])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in (context, *options)}
        run.__doc__ = work.__doc__
        return run

    return declare


def _parameters(kind: type, panel: str | None = None) -> list[inspect.Parameter]:
    """A keyword for each field of a dataclass, annotated as Typer wants it."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=_annotation(field.name, hints[field.name], panel),
        )
        for field in dataclasses.fields(kind)
    ]


def _annotation(name: str, hint: Any, panel: str | None) -> Any:
    """A field's type with the option that Typer shows; a study's `Option` becomes one in the study's panel."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, shown = get_args(hint)[:2]
    if not isinstance(shown, Option):
        return hint
    if kind is bool:
        return Annotated[kind, flag(f"--{name.replace('_', '-')}", shown.help, panel)]
    completion = {"autocompletion": one_of(*shown.values)} if shown.values else {}
    return Annotated[kind, option(shown.help, panel, shown.metavar, **completion)]
