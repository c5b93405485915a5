"""The runtime of `eval --precision fp32+openvino`. Checks device and precision without importing torch."""

import importlib.util
from typing import TYPE_CHECKING

from panbench.base.errors import BadArgument
from panbench.base.extras import install_line

if TYPE_CHECKING:
    from panbench.models.model import Model


class OpenVino:
    """Computes models by OpenVINO on this machine's CPU, in float32."""

    def device_for(self, device: str, precision: str) -> str:
        """Returns "cpu". Raises BadArgument for another device or precision, and if OpenVINO is not installed."""
        if device not in ("auto", "cpu"):
            raise BadArgument(f"+openvino computes on a CPU, and the device is {device}. Leave one of them out.")
        if precision not in ("fp32", "ieee"):
            raise BadArgument(f"+openvino computes in fp32, not in {precision}. Write --precision fp32+openvino.")
        if not _openvino_is_installed():
            raise BadArgument(f"+openvino needs the package openvino. Install it with: {install_line('openvino')}")
        return "cpu"

    def of(self, model: "Model") -> "Model":
        """Returns a copy of the model that OpenVINO computes. Raises BadModel if the model is not a network."""
        from panbench.studies.openvino.model import by_openvino

        return by_openvino(model)


RUNTIME = OpenVino()


def _openvino_is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None
