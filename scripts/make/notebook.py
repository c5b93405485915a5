"""Runs the notebook's offline half and keeps its outputs, which GitHub shows: python scripts/make/notebook.py

The frame of the report is left out: it is some megabytes, and GitHub shows no frames.
"""

import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "panbench_colab.ipynb"


def joined(outputs: list[Any]) -> list[Any]:
    """Returns the outputs without execution numbers, with each stream joined to one piece."""
    kept: list[Any] = []
    for output in outputs:
        output.pop("execution_count", None)
        if kept and output.output_type == "stream" == kept[-1].output_type and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main() -> None:
    """Executes the notebook in an empty folder; cells that are not run stay empty."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.metadata = {}
            if "if COCO:" in cell.source or "iframe" in cell.source:
                cell.outputs = []
            cell.outputs = joined(cell.outputs)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
