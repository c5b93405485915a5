"""The section of the page on what fusion costs."""

from report_runs import text_of

from panbench.metrics.slices import image_statistics
from panbench.report.pages.page.document import report_page
from panbench.studies.fusing.answer import ORACLE_STEPS, write_oracle


def test_the_page_has_the_cost_of_fusion_from_a_stored_oracle(make_runs):
    first, second = make_runs()
    steps = dict.fromkeys(ORACLE_STEPS, image_statistics(first.matched, first.categories))
    write_oracle(first, steps)
    words = " ".join(text_of(report_page([first, second])).split())
    pq = 100 * first.summary()["All"]["PQ"]
    assert f"PQ {pq:.1f}; at least 0.0 lost by scores and fusion, at most {100 - pq:.1f} because no mask fits" in words
    assert "Without an oracle: second. panbench eval … --keep-candidates" in words


def test_without_an_oracle_the_page_names_the_command(make_runs):
    assert "panbench fuse RUN --oracle" in text_of(report_page(make_runs())).split("Left out")[-1]
