"""Declares `panbench serve`, which shows the report over all images of a folder's runs in the browser."""

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
from panbench.cli.command import MovedImages, MovedPngs, MovedTruth, command, family, flag, option, run_folders

app = family()

PORT = 8414
SWITCH = 0.0005
"""Seconds after which a computing thread yields to another."""

MOST_CONNECTIONS = 1000
"""Further connections are refused at once: each needs memory, whatever it requests."""
TOKEN_VARIABLE = "PANBENCH_SERVE_TOKEN"


@command(app, "serve", "panbench serve results/", "panbench serve results/ --port 9000 --open")
def serve(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of runs.", autocompletion=run_folders)
    ] = Path("results"),
    port: Annotated[int, option("The port; 0 picks a free one.", metavar="N", min=0, max=65535)] = PORT,
    open_it: Annotated[bool, flag("--open", "Open the browser.")] = False,
    token: Annotated[bool, flag("--token", "Require a token from browsers: random, or $PANBENCH_SERVE_TOKEN.")] = False,
    images: MovedImages = None,
    gt: MovedTruth = None,
    gt_dir: MovedPngs = None,
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

    from panbench.report.pages.live.library import RunLibrary

    secret = _access_token() if token or os.environ.get(TOKEN_VARIABLE) else None
    served = application(RunLibrary(folder, images=images, gt=gt, gt_dir=gt_dir), secret)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # A port stays usable right after its server ended; a running server still blocks it (on POSIX).
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError as problem:
        listening.close()
        raise BadArgument(
            f"Port {port} cannot be used: {problem.strerror}. Choose another with --port, or 0 for a free one."
        ) from None
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/" + (f"enter/{secret}" if secret else "")
    console.hint(f"Serving {folder} at {url} to this machine only. Ctrl-C stops it.")
    if open_it:
        import webbrowser

        webbrowser.open(url)
    config = uvicorn.Config(
        served, log_level="warning", access_log=False, lifespan="off", limit_concurrency=MOST_CONNECTIONS
    )
    server = uvicorn.Server(config)
    # Threads compute the answers: switching ten times as often as by default keeps the list of runs responsive.
    sys.setswitchinterval(SWITCH)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt as interruption:
        # Ctrl-C is the normal end; SIGTERM and SIGHUP keep their exit codes.
        if hasattr(interruption, "exit_code"):
            raise
    finally:
        listening.close()


def _access_token() -> str:
    """Returns the server's access token: the environment's, or a new one. Raises BadArgument for an invalid one."""
    chosen = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    if not re.fullmatch(r"[A-Za-z0-9_.~-]{8,200}", chosen):
        raise BadArgument(f"{TOKEN_VARIABLE} must be 8 to 200 letters, digits and - _ . ~.")
    return chosen
