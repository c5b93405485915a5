"""What is installed beside the core, and the line that installs the rest.

The core scores, compares and reports. What runs models is the extra `models`; others are in pyproject.toml.
"""

import importlib.util
import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from panbench.base.errors import BadModel
from panbench.base.text import listed

__all__ = ["EXTRA_OF", "install_line", "require_models"]

EXTRA_OF = {
    **dict.fromkeys(("torch", "mmdet", "mmengine", "mmcv", "cv2", "safetensors"), "models"),
    **dict.fromkeys(("transformers", "huggingface_hub"), "transformers"),
    **dict.fromkeys(("starlette", "uvicorn"), "serve"),
    "torchmetrics": "torchmetrics",
    "ray": "ray",
    **dict.fromkeys(("s3fs", "gcsfs"), "cloud"),
}
"""The extra that brings a package, by the package's name in `import`."""


def require_models() -> None:
    """Raises BadModel if the extra that runs models is not installed. Imports nothing."""
    missing = [name for name in ("torch", "mmdet", "cv2") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadModel(
            f"This runs models, but {listed(missing)} {'is' if len(missing) == 1 else 'are'} not installed. "
            f"Install the packages that run models with: {install_line('models')}"
        )


def install_line(*extras: str) -> str:
    """The command that installs panbench with these extras, from its present source.

    From a clone it names the clone's folder, from an address the address; panbench is on no package index yet.
    """
    source, editable = _source()
    return f"pip install {'-e ' if editable else ''}{_quoted(source, ','.join(extras))}"


def _quoted(source: str, extras: str) -> str:
    wanted = f"[{extras}]"
    if "://" in source:
        return f"'panbench{wanted} @ {source}'"
    return shlex.quote(source + wanted) if shlex.quote(source) != source else f"'{source}{wanted}'"


def _source() -> tuple[str, bool]:
    """The folder or the address that panbench comes from, and whether it runs from that very folder."""
    clone = Path(__file__).resolve().parents[2]
    if (clone / "pyproject.toml").is_file():
        return ("." if clone == Path.cwd() else str(clone)), True
    with_address = _direct_url()
    address = str(with_address.get("url", ""))
    if address.startswith("file:"):
        return unquote(urlsplit(address).path).lstrip("/" if sys.platform == "win32" else ""), False
    version_control = with_address.get("vcs_info", {})
    if version_control:
        return f"{version_control.get('vcs', 'git')}+{address}", False
    return address or ".", False


def _direct_url() -> dict[str, dict[str, str]]:
    """pip's record of the source of panbench; empty if there is none. [PEP 610]"""
    try:
        written = metadata.distribution("panbench").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return {}
    return dict(json.loads(written)) if written else {}
