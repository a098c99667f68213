"""Figures of a run: what is drawn is what was measured, and reads without colours."""

import io

import numpy as np
import pytest
from PIL import Image

from cdam_core.benchmarks import figures, outputs, reading
from cdam_core.benchmarks.averages import QUANTITIES
from cdam_core.benchmarks.figures import DRAWINGS
from cdam_core.benchmarks.results import RANDOM
from cdam_core.benchmarks.tables import label
from cdam_core.methods import METHODS
from tests import runs


@pytest.fixture(scope="module")
def found():
    return reading.of_table(runs.table(runs.pairs(4)), runs.ABOUT)


def figure(found, name):
    drawing = next(each for each in DRAWINGS if each.id == name)
    panels = {QUANTITIES[q]: figures.curves(found, QUANTITIES[q]) for q in drawing.quantities}
    return figures.figure_of(drawing, panels, found.about)


def test_lines_are_the_means_of_the_rows(found):
    axis = figure(found, "fidelity").axes[0]
    line = next(each for each in axis.lines if each.get_label() == "CDAM")
    rows = [row["curve"] for row in runs.pairs(4)
            if (row["method"], row["measure"], row["kind"]) == ("cdam", "mif", "right")]
    np.testing.assert_allclose(line.get_ydata(), np.mean(rows, 0), rtol=1e-5)
    assert line.get_xdata()[-1] == 100
    assert {each.get_label() for each in axis.lines} >= {"Random order", "Partial LRP"}


def test_differences_are_right_less_wrong(found):
    axis = figure(found, "box_discrimination").axes[0]
    line = next(each for each in axis.lines if each.get_label() == "CDAM")
    right, wrong = (np.mean([row["curve"] for row in runs.pairs(4) if row["kind"] == kind
                             and (row["method"], row["measure"]) == ("cdam", "box")], 0)
                    for kind in ("right", "wrong"))  # fmt: skip
    np.testing.assert_allclose(line.get_ydata(), right - wrong, atol=1e-6)


def test_bands_hold_the_means_and_titles_say_what_it_is(found):
    drawn = figure(found, "fidelity")
    title = drawn.get_suptitle().replace("\n", " ")
    assert title.endswith("SIMULATED DATA")
    assert "scenes:pairs" in title
    assert "4 images" in title
    for one in figures.curves(found, QUANTITIES["lif"]).values():
        assert ((one.low <= one.mean + 1e-6) & (one.mean <= one.high + 1e-6)).all()


def test_every_method_can_be_told_without_colours():
    looks = [figures.style(method) for method in METHODS]
    assert len({(look.dashes, look.marker) for look in looks}) == len(METHODS)
    assert len({look.colour for look in looks}) == len(METHODS)
    assert figures.style(RANDOM) not in looks
    assert {label(method) for method in METHODS} == {m.label for m in METHODS.values()}


def test_files_repeat_byte_for_byte(found):
    one, two = figures.figures(found), figures.figures(found)
    assert one == two
    assert set(one) == {f"{each.id}.{kind}" for each in DRAWINGS for kind in ("svg", "png")}
    assert one["box.svg"].startswith(b"<?xml")
    with Image.open(io.BytesIO(one["box.png"])) as picture:
        assert min(picture.size) > 400


def test_the_papers_figures_are_named_on_its_data(found):
    on_imagenet = reading.of_table(
        runs.table(runs.pairs(2)), {"data": {"id": "X_multi", "is_imagenet": True}}
    )
    titles = [figure(on_imagenet, each.id).get_suptitle() for each in DRAWINGS]
    assert [f"Figure {n}" in title for n, title in zip((7, 8, 9, 10), titles, strict=True)] == \
        [True] * 4
    assert "Figure" not in figure(found, "box").get_suptitle()


def test_a_run_without_curves_has_no_figures():
    rows = [row for row in runs.pairs(2) if row["measure"] == "compactness"]
    assert figures.figures(reading.of_table(runs.table(rows))) == {}
    only_random = [row for row in runs.pairs(2) if row["method"] == RANDOM]
    assert figures.figures(reading.of_table(runs.table(only_random))) == {}


def test_names_in_titles_are_text():
    about = {"data": {"id": "$x_1$ 漢"}}
    title = figure(reading.of_table(runs.table(runs.pairs(2)), about), "box").get_suptitle()
    assert r"\$x_1\$ □" in title


def test_tables_and_figures_are_written_beside_the_results(tmp_path):
    folder = runs.write(tmp_path / "run", runs.pairs(2))
    written = {path.relative_to(folder).as_posix() for path in outputs.write(folder)}
    assert written == {"tables.md", "tables.csv",
                       *(f"figures/{d.id}.{k}" for d in DRAWINGS for k in ("svg", "png"))}
    before = {name: (folder / name).read_bytes() for name in written}
    outputs.write(folder)  # a resumed run makes them anew
    assert before == {name: (folder / name).read_bytes() for name in written}
    assert before["tables.md"].decode().startswith("# Benchmark · SIMULATED DATA")
