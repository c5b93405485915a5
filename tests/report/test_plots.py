import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
from matplotlib.text import Text
from support import panbench, refusal

from panbench.base.errors import BadArgument
from panbench.report.answers.views import compared, mistaken_objects, per_category, per_image
from panbench.report.figures.colors import LIGHT, MARKERS, model_key, styles_of
from panbench.report.figures.plots import ANY, CLAIMED, PLOTS, draw_plot, find_plot, kinds, write_plot
from panbench.runs import Run

KINDS = [kind for kind in kinds() if kind in PLOTS or kind not in CLAIMED]


@pytest.fixture(scope="module")
def members(shared_runs):
    return compared(shared_runs)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_plot_is_drawn_with_its_numbers_next_to_it(kind, members, tmp_path):
    shown = members[: find_plot(kind).runs[1]]
    figure_path, data_path = write_plot(kind, shown, tmp_path / f"{kind}.pdf", data=True)
    assert figure_path.read_bytes().startswith(b"%PDF")
    table = pd.read_csv(data_path)
    assert len(table)
    scores = table[[column for column in table if column in ("PQ", "share", "lost", "second", "precision")]]
    assert 0 < scores.max().max() <= 1


def test_the_help_lists_all_kinds_of_plots():
    shown = " ".join(panbench("show", "plot", "--help", columns=400).stdout.split())
    (listed,) = re.findall(r"(intervals, .*), confusion \(of one run\) or images \(of two\)", shown)
    assert sorted(listed.split(", ")) == sorted(kind for kind in kinds() if find_plot(kind).runs == ANY)


def test_names_in_plot_data_are_quoted_for_spreadsheets_or_raw_on_request(shared_runs, tmp_path):
    run = shared_runs[0]
    info = replace(run.info, name="=1+1", model=replace(run.info.model, name="=1+1", title="=1+1"))
    shown, _ = compared([Run(info, table=run.table)])
    for raw, name in ((False, "'=1+1"), (True, "=1+1")):
        _, data_path = write_plot("thresholds", shown, tmp_path / f"{raw}.svg", data=True, raw=raw)
        assert set(pd.read_csv(data_path)["run"]) == {name}


def test_a_run_has_its_colour_and_marker_whatever_the_order(members):
    for shown in (members, members[::-1]):
        figure, _ = draw_plot("thresholds", shown)
        styles = styles_of([model_key(member.run) for member in shown])
        drawn = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines]
        assert drawn == [(LIGHT[style.color], MARKERS[style.marker]) for style in styles]


@pytest.fixture(scope="module")
def five(shared_runs):
    """Five runs of models with long names, on the same images."""
    members = []
    for index in range(5):
        run = shared_runs[index % 2]
        name = f"Mask2Former Swin-{'SBLTH'[index]} with a long name, pre-trained on ImageNet-21k {index}"
        info = replace(run.info, name=name, model=replace(run.info.model, name=name, title=name))
        members.append(Run(info, table=run.table))
    return compared(members)[0]


@pytest.mark.parametrize("width", [3.3, 7.0])
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_lies_within_its_figure_and_ticks_do_not_overlap(kind, width, five):
    figure, _ = draw_plot(kind, five[: find_plot(kind).runs[1]], width=width)
    figure.set_dpi(200)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else figure._get_renderer()
    assert figure.get_figwidth() == width
    (axes,) = figure.axes
    # matplotlib also keeps ticks beyond the ends of an axis, which it does not draw.
    beyond = [
        label
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    ]
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text not in beyond]
    assert len(texts) > 4
    for text in texts:
        box = text.get_window_extent(renderer)
        inside = figure.bbox.padded(1)
        assert inside.contains(box.x0, box.y0), text
        assert inside.contains(box.x1, box.y1), text
    assert axes.get_window_extent(renderer).width > 0.3 * figure.bbox.width
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent(renderer) for label in labels if label in texts]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes)), [label.get_text() for label in labels]
    sizes = {round(text.get_fontsize(), 1) for text in texts}
    assert max(sizes) - min(sizes) <= 2


def test_a_plot_uses_the_requested_font_and_size_and_refuses_a_missing_font(members, tmp_path):
    figure, _ = draw_plot("intervals", members, font="DejaVu Serif", font_size=10)
    label = figure.axes[0].xaxis.label
    assert (label.get_fontname(), label.get_fontsize()) == ("DejaVu Serif", 10)
    assert figure.axes[0].get_yticklabels()[0].get_fontsize() == 9
    write_plot("intervals", members, tmp_path / "a.pdf", font="DejaVu Serif")
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"DejaVuSerif" in content
    assert b"/FontFile2" in content  # the font itself is in the file
    with pytest.raises(BadArgument, match="The font 'Comic Sans of Nowhere' is not installed"):
        draw_plot("intervals", members, font="Comic Sans of Nowhere")
    assert "--font-size 4 to 72" in refusal(BadArgument, draw_plot, "intervals", members, font_size=1)


def test_a_plot_is_accepted_by_latex(members, tmp_path):
    latex = shutil.which("pdflatex")
    if latex is None:
        pytest.skip("no pdflatex is installed")
    write_plot("causes", members, tmp_path / "causes.pdf", width=3.3)
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{graphicx}\begin{document}\includegraphics{causes.pdf}\end{document}"
    )
    command = [latex, "-interaction=batchmode", "-halt-on-error", "paper.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "paper.pdf").stat().st_size > 1000


def test_without_the_data_option_only_the_plot_is_written(members, tmp_path):
    assert write_plot("causes", members, tmp_path / "a.svg") == [tmp_path / "a.svg"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_a_plot_shows_the_numbers_of_its_table(members):
    figure, table = draw_plot("intervals", members)
    (axes,) = figure.axes
    drawn = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_linestyle() == "None")
    assert drawn == pytest.approx(sorted(100 * table["PQ"]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first <b>model</b>", "second"]


def test_unsupported_plots_are_refused(members, tmp_path):
    assert "There is no plot 'pie'" in refusal(BadArgument, draw_plot, "pie", members)
    assert "images shows 2 run" in refusal(BadArgument, draw_plot, "images", members[:1])
    assert "confusion shows 1 run" in refusal(BadArgument, draw_plot, "confusion", members)
    assert "between 1 and 60" in refusal(BadArgument, draw_plot, "speed", members, width=0.1)


def test_plot_views_name_the_outcome_of_segments(members):
    taken = mistaken_objects(members)
    assert taken[["run", "predicted", "objects"]].to_numpy().tolist() == [["second", "ball", 2]]
    images = per_image(members).set_index(["run", "image_id"])
    # Image 8: sky IoU 0.954, one of two balls found exactly, the cat taken for a third ball: PQ (0.954 + 0 + 1/2)/3.
    cats, balls = 0.0, 1 / (1 + 0.5 * 1 + 0.5 * 1)
    sky = float(images.loc[("second", 8), "PQ"]) * 3 - cats - balls
    assert sky == pytest.approx(0.9, abs=0.1)
    segments = per_category(members).set_index(["run", "category_id"])["segments"]
    assert segments.loc["second"].tolist() == [4, 8, 4]
