"""`panbench serve`: the report over all images of the runs in a folder, in the browser."""

import os
import re
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from panbench.base.errors import BadArgument
from panbench.base.extras import install_line
from panbench.cli import console
from panbench.cli.command import command, family, flag, option, run_folders

app = family()

PORT = 8414
SWITCH = 0.0005
"""Seconds after which a thread that computes makes way for another."""

MOST_CONNECTIONS = 1000
"""Beyond it a connection is refused at once: each takes memory, whatever it asks for."""
TOKEN_VARIABLE = "PANBENCH_SERVE_TOKEN"
_MOVED = "Where the data is, if it has moved"


@command(app, "serve", "panbench serve results/", "panbench serve results/ --port 9000 --open")
def serve(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of runs.", autocompletion=run_folders)
    ] = Path("results"),
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0 picks a free one.")] = PORT,
    open_it: Annotated[bool, flag("--open", "Open the browser.")] = False,
    token: Annotated[bool, flag("--token", "Require a token from browsers: random, or $PANBENCH_SERVE_TOKEN.")] = False,
    images: Annotated[Path | None, option("The folder of images.", _MOVED, "DIR")] = None,
    gt: Annotated[Path | None, option("The ground truth's JSON.", _MOVED, "FILE.json")] = None,
    gt_dir: Annotated[Path | None, option("The folder of its PNGs.", _MOVED, "DIR")] = None,
) -> None:
    """Show the runs of a folder in the browser: the report over all their images, searchable by what went wrong.

    Only this machine can connect; on a shared one, that is every user, unless --token is given. Ctrl-C stops it.
    """
    try:
        import uvicorn

        from panbench.report.pages.live.server import application
    except ModuleNotFoundError as problem:
        if (problem.name or "").split(".")[0] not in ("uvicorn", "starlette"):
            raise
        raise BadArgument(f"`panbench serve` needs the extra serve: {install_line('serve')}") from None

    import socket

    from panbench.report.pages.live.library import Library

    shown = _token() if token or os.environ.get(TOKEN_VARIABLE) else None
    served = application(Library(folder, images=images, gt=gt, gt_dir=gt_dir), shown)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # A server that ended a moment ago does not block its port; one that runs does (on POSIX).
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError as problem:
        listening.close()
        raise BadArgument(
            f"Port {port} cannot be used: {problem.strerror}. Choose another with --port, or 0 for a free one."
        ) from None
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/" + (f"enter/{shown}" if shown else "")
    console.say(f"Serving {folder} at {address} to this machine only. Ctrl-C stops it.")
    if open_it:
        import webbrowser

        webbrowser.open(address)
    config = uvicorn.Config(
        served, log_level="warning", access_log=False, lifespan="off", limit_concurrency=MOST_CONNECTIONS
    )
    server = uvicorn.Server(config)
    # Answers are made in threads: ten times as often as Python would, each lets the list of runs through.
    sys.setswitchinterval(SWITCH)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt as interruption:
        # Ctrl-C is how it is meant to end; SIGTERM and SIGHUP keep their exit codes.
        if hasattr(interruption, "exit_code"):
            raise
    finally:
        listening.close()


def _token() -> str:
    """The token of the environment, or a new one. Raises BadArgument for one that does not fit into an address."""
    chosen = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    if not re.fullmatch(r"[A-Za-z0-9_.~-]{8,200}", chosen):
        raise BadArgument(f"{TOKEN_VARIABLE} must be 8 to 200 letters, digits and - _ . ~.")
    return chosen
