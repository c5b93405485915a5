"""One page of PDF: what is written on it is read back from the file."""

import re
import zlib
from pathlib import Path

import pytest

from panbench.base.errors import BadArgument
from panbench.report.answers import views
from panbench.report.answers.grid import percent
from panbench.report.pages.page.document import write_one_page


def text_of_pdf(path: Path) -> str:
    """The text of a PDF that matplotlib wrote: two bytes a character, in the order of drawing; ligatures are lost."""
    content = path.read_bytes()
    found = []
    for match in re.finditer(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        try:
            drawn = zlib.decompress(match[1])
        except zlib.error:
            continue
        if b" Tf" not in drawn:
            continue
        for strings in re.findall(rb"BT\n(.*?)ET", drawn, re.DOTALL):
            pieces = re.findall(rb"\(((?:[^()\\]|\\.)*)\)", strings, re.DOTALL)
            found.append(b"".join(pieces).replace(b"\x00", b"").replace(b"\\", b"").decode("latin-1"))
    return "\n".join(found)


def pages_in(path: Path) -> int:
    return len(re.findall(rb"/Type /Page\b(?!s)", path.read_bytes()))


@pytest.fixture(scope="module")
def written(shared_runs, tmp_path_factory) -> Path:
    return write_one_page(shared_runs, tmp_path_factory.mktemp("one") / "one.pdf", title="Two models")


def test_the_page_has_verdict_table_causes_and_the_dearest_errors(shared_runs, written):
    assert pages_in(written) == 1
    text = text_of_pdf(written)
    members, _ = views.compared(views.best_first(shared_runs))
    assert text.startswith("Two models") or "\nTwo models" in text
    for member in members:
        assert percent(member.row.PQ) in text
    assert {"missed", "merged", "hallucinated", "imperfect mask"} <= set(text.split("\n"))
    best = members[0].priced
    assert text.count("image ") >= min(6, len(best))
    assert f"+{percent(best['gain'].iloc[0])} · image {best['image_id'].iloc[0]}" in text


def test_without_predictions_the_page_says_what_is_missing(make_runs, tmp_path):
    written = write_one_page(make_runs(predictions=False), tmp_path / "one.pdf")
    assert "has no stored predictions" in " ".join(text_of_pdf(written).split())


def test_the_same_runs_give_the_same_bytes(shared_runs, written, tmp_path):
    again = write_one_page(shared_runs, tmp_path / "again.pdf", title="Two models")
    assert again.read_bytes() == written.read_bytes()


def test_another_ending_than_pdf_is_refused(shared_runs, tmp_path):
    with pytest.raises(BadArgument, match=r"does not end in \.pdf"):
        write_one_page(shared_runs, tmp_path / "one.html")
