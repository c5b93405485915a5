import pandas as pd
import pytest

from panbench.base.errors import BadArgument
from panbench.report.plots import PLOTS, draw_plot, write_plot
from panbench.report.views import compared, mistaken_objects, per_category, per_image


@pytest.fixture(scope="module")
def members(shared_runs):
    return compared(shared_runs)[0]


@pytest.mark.parametrize("kind", PLOTS)
def test_every_plot_is_drawn_and_its_numbers_lie_beside_it(kind, members, tmp_path):
    shown = members[: PLOTS[kind].runs[1]]
    figure_path, data_path = write_plot(kind, shown, tmp_path / f"{kind}.pdf", data=True)
    assert figure_path.read_bytes().startswith(b"%PDF")
    table = pd.read_csv(data_path)
    assert len(table)
    scores = table[[column for column in table if column in ("PQ", "share", "lost", "second")]]
    assert 0 < scores.max().max() <= 1


def test_without_data_only_the_plot_is_written(members, tmp_path):
    assert write_plot("causes", members, tmp_path / "a.svg") == [tmp_path / "a.svg"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_a_plot_shows_the_numbers_of_its_table(members):
    figure, table = draw_plot("intervals", members)
    (axes,) = figure.axes
    drawn = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_linestyle() == "None")
    assert drawn == pytest.approx(sorted(100 * table["PQ"]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first <b>model</b>", "second"]


def test_what_cannot_be_drawn_is_refused(members, tmp_path):
    with pytest.raises(BadArgument, match="There is no plot 'pie'"):
        draw_plot("pie", members)
    with pytest.raises(BadArgument, match="images shows 2 run"):
        draw_plot("images", members[:1])
    with pytest.raises(BadArgument, match="confusion shows 1 run"):
        draw_plot("confusion", members)
    with pytest.raises(BadArgument, match="between 1 and 60"):
        draw_plot("speed", members, width=0.1)


def test_views_name_what_happened(members):
    taken = mistaken_objects(members)
    assert taken[["run", "predicted", "objects"]].to_numpy().tolist() == [["second", "ball", 2]]
    images = per_image(members).set_index(["run", "image_id"])
    # Image 8: sky IoU 0.954, one of two balls found exactly, the cat taken for a third ball: PQ (0.954 + 0 + 1/2)/3.
    cats, balls = 0.0, 1 / (1 + 0.5 * 1 + 0.5 * 1)
    sky = float(images.loc[("second", 8), "PQ"]) * 3 - cats - balls
    assert sky == pytest.approx(0.9, abs=0.1)
    segments = per_category(members).set_index(["run", "category_id"])["segments"]
    assert segments.loc["second"].tolist() == [4, 8, 4]
