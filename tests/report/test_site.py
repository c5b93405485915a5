import json
import re

import little_runs
import pytest
from support import refusal

from panbench.base.errors import BadArgument
from panbench.report.figures.colors import MARKER_PATHS, run_styles
from panbench.report.pages.site import write_site


def test_a_site_lists_the_best_run_first_with_a_report_for_each(shared_runs, tmp_path):
    index = write_site(shared_runs[::-1], tmp_path / "site", title="Toys <b>")
    text = index.read_text("utf-8")
    assert "<h1>Toys &lt;b&gt;</h1>" in text
    links = re.findall(r'<a href="(.*?)">(.*?)</a>', text)
    compared = ("compare/toy-val.html", "Compare all 2")
    assert links == [compared, ("runs/run-a.html", "first &lt;b&gt;model&lt;/b&gt;"), ("runs/run-b.html", "second")]
    for link, _ in links:
        page = (index.parent / link).read_text("utf-8")
        assert "</html>" in page
        assert '<a href="../index.html">All runs</a>' in page
    together = (index.parent / compared[0]).read_text("utf-8")
    assert "Which differences are real" in together
    for run in shared_runs:
        assert f"{100 * run.summary()['All']['PQ']:.2f}" in text
    assert "<script" not in text
    assert (index.parent / ".nojekyll").exists()


def test_each_run_has_its_marker_its_interval_as_a_bar_and_its_costliest_error(make_runs, tmp_path):
    runs = make_runs(images=12)
    text = write_site(runs, tmp_path / "site", examples=0).read_text("utf-8")
    lines = re.findall(r"<tr>.*?</tr>", text, re.DOTALL)[1:]
    for line, style in zip(lines, run_styles(runs), strict=True):
        assert f'd="{MARKER_PATHS[style.marker]}" fill="var(--m{style.color})"' in line
        assert f'<rect class="c{style.color}"' in line
        assert "data:image/" in line


def ranks_of(site) -> list[str]:
    return re.findall(r'<tr>\s*<td class="number">(.*?)</td>', site.read_text("utf-8"))


def test_ranks_have_the_range_that_the_tests_leave_open(tmp_path):
    def scored(name: str, found: int, images: int = 20):
        images_of = {number: "ppppssss" if number < found else "ssssssss" for number in range(images)}
        return little_runs.scored(tmp_path, name, dict.fromkeys(range(images), "ppppssss"), images_of)

    open_ = write_site([scored("a", 10), scored("b", 11)], tmp_path / "open", examples=0)
    assert ranks_of(open_) == ["1 (1–2)", "2 (1–2)"]
    assert "Ranks at 95 %: the best and the worst rank that the tests leave possible." in open_.read_text("utf-8")
    sure = write_site([scored("c", 1), scored("d", 20)], tmp_path / "sure", examples=0)
    assert ranks_of(sure) == ["1", "2"]


def test_rebuilding_a_site_removes_stale_files(shared_runs, tmp_path):
    write_site(shared_runs, tmp_path / "site", examples=0)
    assert len(list((tmp_path / "site" / "runs").iterdir())) == 2
    assert len(list((tmp_path / "site" / "compare").iterdir())) == 1
    write_site(shared_runs[:1], tmp_path / "site", examples=0)
    assert [path.name for path in (tmp_path / "site" / "runs").iterdir()] == ["run-a.html"]
    assert not list((tmp_path / "site" / "compare").iterdir())


def test_a_folder_not_made_by_panbench_is_refused_and_kept(shared_runs, tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    assert "is not empty and was not made by `panbench site`" in refusal(BadArgument, write_site, shared_runs, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_a_site_record_cannot_delete_files_elsewhere(shared_runs, tmp_path):
    site = tmp_path / "site"
    write_site(shared_runs[:1], site, examples=0)
    (tmp_path / "thesis.tex").write_text("years")
    (site / ".panbench-site.json").write_text(json.dumps({"files": ["../thesis.tex"]}))
    write_site(shared_runs[:1], site, examples=0)
    assert (tmp_path / "thesis.tex").exists()


def test_an_interrupted_site_is_built_again(shared_runs, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        (tmp_path / "site" / "runs" / "half.html").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("panbench.report.pages.site.write_report", stop)
        with pytest.raises(KeyboardInterrupt):
            write_site(shared_runs, tmp_path / "site", examples=0)
    assert write_site(shared_runs, tmp_path / "site", examples=0).is_file()
