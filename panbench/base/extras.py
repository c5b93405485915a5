"""Which extras are installed, and the command that installs the others.

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

EXTRA_OF = {
    **dict.fromkeys(("torch", "mmdet", "mmengine", "mmcv", "cv2", "safetensors"), "models"),
    **dict.fromkeys(("transformers", "huggingface_hub"), "transformers"),
    **dict.fromkeys(("starlette", "uvicorn"), "serve"),
    "torchmetrics": "torchmetrics",
    "ray": "ray",
    "openvino": "openvino",
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
    """Returns the command that installs panbench with these extras, from the source it was installed from.

    It names the folder of a clone, or the URL it came from; panbench is on no package index yet.
    """
    source, editable = _panbench_install_source()
    extra = f"[{','.join(extras)}]"
    if "://" in source:
        return f"pip install 'panbench{extra} @ {source}'"
    quoted = shlex.quote(source + extra) if shlex.quote(source) != source else f"'{source}{extra}'"
    return f"pip install {'-e ' if editable else ''}{quoted}"


def _panbench_install_source() -> tuple[str, bool]:
    """Returns the folder or URL that panbench was installed from, and whether it is an editable install."""
    clone = Path(__file__).resolve().parents[2]
    if (clone / "pyproject.toml").is_file():
        return ("." if clone == Path.cwd() else str(clone)), True
    record = _pip_direct_url()
    url = str(record.get("url", ""))
    if url.startswith("file:"):
        return unquote(urlsplit(url).path).lstrip("/" if sys.platform == "win32" else ""), False
    if version_control := record.get("vcs_info"):
        return f"{version_control.get('vcs', 'git')}+{url}", False
    return url or ".", False


def _pip_direct_url() -> dict[str, dict[str, str]]:
    """Reads pip's record of the URL that panbench was installed from; empty if there is none. [PEP 610]"""
    try:
        written = metadata.distribution("panbench").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return {}
    return dict(json.loads(written)) if written else {}
