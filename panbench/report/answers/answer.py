"""The answer of `panbench compare`, printed in each of its formats."""

import io
import json
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from rich.console import Console

from panbench.base.text import for_spreadsheet
from panbench.report.answers.grid import Grid, as_latex, as_markdown, as_texts, markdown_text, sentence_text


class Answer:
    """What a command answers: tables for people, `record` and `table` for programs; subclasses define these three."""

    @property
    def messages(self) -> Sequence[str]:
        """Returns the sentences with the conclusions, printed before the tables."""
        return ()

    @property
    def grids(self) -> Sequence[Grid]:
        """Returns the tables for people, numbers in percent."""
        raise NotImplementedError

    def record(self) -> Any:
        """Returns the answer for JSON: fractions 0–1, None for absent values."""
        raise NotImplementedError

    def table(self) -> pd.DataFrame:
        """Returns the answer as rows for CSV and Parquet: typed, fractions 0–1."""
        raise NotImplementedError

    def text(self, width: int = 120) -> str:
        """Returns sentences and tables as text for a terminal of `width` columns, without colours."""
        console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
        with console.capture() as captured:
            for message in self.messages:
                console.print(sentence_text(message), crop=False)
            for index, table in enumerate(as_texts(self.grids)):
                console.print(*([""] if index or self.messages else []), table, sep="\n", crop=False)
        return captured.get()

    def markdown(self) -> str:
        """Returns sentences and tables as Markdown, one below the other."""
        words = [markdown_text(" ".join(self.messages)) + "\n"] if self.messages else []
        return "\n".join([*words, *map(as_markdown, self.grids)])

    def latex(self) -> str:
        """Returns the tables as LaTeX, one below the other."""
        return "\n".join(map(as_latex, self.grids))

    def json(self) -> str:
        """Returns the answer as indented JSON text, with absent values as null."""
        return json.dumps(self.record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def csv(self, *, raw: bool = False) -> str:
        """Returns `table` as CSV; `raw` leaves text unchanged that a spreadsheet would run as a formula."""
        return as_csv(self.table(), raw=raw)

    def parquet(self) -> bytes:
        """Returns `table` as a Parquet file; absent values are null."""
        buffer = io.BytesIO()
        table = pa.Table.from_pandas(self.table(), preserve_index=False)
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()


def as_csv(table: pd.DataFrame, *, raw: bool = False) -> str:
    """Returns a table as CSV, with all digits of its numbers.

    raw: leave text unchanged that a spreadsheet would run as a formula; else it gets an apostrophe before it
    """

    def cell(value: Any) -> Any:
        """Spells booleans in lower case, and marks text that a spreadsheet would run as a formula, unless `raw`."""
        return str(value).lower() if isinstance(value, bool) else value if raw else for_spreadsheet(value)

    return table.astype(object).map(cell).to_csv(index=False, lineterminator="\n")


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows of a table as Python's own types, floats to the last bit; None for absent values."""
    # pandas' to_json rounds to 15 decimals, so the same number would differ between places of the record.
    return [
        {str(name): None if _is_null_in_json(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _is_null_in_json(value: Any) -> bool:
    """Returns whether a value is None, NA, NaN or infinite, which JSON writes as null."""
    return value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value))
