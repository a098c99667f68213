"""The paper's tables from results: by hand, against a slow bootstrap, and what is refused."""

import csv
import io
import json
import re
import zipfile
from functools import cache

import numpy as np
import pytest

from cdam_core import archive
from cdam_core.benchmarks import averages, reading, tables
from cdam_core.benchmarks.averages import QUANTITIES
from cdam_core.benchmarks.results import RANDOM, arrow, schema
from cdam_core.errors import BadRecord
from cdam_core.intervals import DRAWS, bootstrap, bootstrap_means
from tests import runs
from tests.runs import row


def results_of(rows, about=runs.ABOUT):
    return reading.of_table(reading.table_of(runs.parquet(rows)), about)


# ---- by hand -------------------------------------------------------------------------------------

# Two images; a: outputs zebra and elephant; b: zebra alone.
BY_HAND = [
    row("a", "zebra", "cdam", "fidelity", 10.0), row("a", "elephant", "cdam", "fidelity", 20.0),
    row("b", "zebra", "cdam", "fidelity", 40.0),
    row("a", "zebra", "cdam", "fidelity", 4.0, target="elephant"),
    row("a", "elephant", "cdam", "fidelity", -1.0, target="zebra"),
    row("a", "elephant", "cdam", "fidelity", -3.0, target="lion"),
    row("a", "zebra", "attention", "fidelity", 7.0),
    row("b", "zebra", "attention", "fidelity", 1.0),
    row("a", "zebra", "attention", "compactness", np.nan),
    row("b", "zebra", "attention", "compactness", 0.25),
    row("a", "zebra", RANDOM, "fidelity", 1.0), row("b", "zebra", RANDOM, "fidelity", -2.0),
]  # fmt: skip


def cells_by_hand():
    found = {table.layout.id: table for table in tables.tables(results_of(BY_HAND))}
    return {name: table.rows for name, table in found.items()}


def test_the_targets_of_an_image_are_averaged_first():
    cell = cells_by_hand()["correctness"]["cdam"]["fidelity"]
    assert cell.estimate.value == ((10 + 20) / 2 + 40) / 2
    assert (cell.images, cell.undefined, cell.difference) == (2, 0, None)


def test_wrong_classes_are_compared_on_the_same_image_and_output():
    cell = cells_by_hand()["discrimination"]["cdam"]["fidelity_discrimination"]
    assert cell.estimate.value == ((10 - 4) + (20 - (-1 - 3) / 2)) / 2  # b has no wrong class
    assert cell.images == 1
    assert np.isnan(cell.estimate.low)  # one image has no interval


def test_differences_are_of_the_same_images():
    rows = cells_by_hand()["correctness"]
    assert rows["attention"]["fidelity"].difference.value == ((7 - 15) + (1 - 40)) / 2
    assert rows[RANDOM]["fidelity"].difference.value == ((1 - 15) + (-2 - 40)) / 2
    assert rows["attention"]["fidelity"].differs
    assert list(rows) == ["cdam", "attention", RANDOM]


def test_undefined_compactness_is_counted_and_left_out():
    table = next(t for t in tables.tables(results_of(BY_HAND)) if t.layout.id == "compactness")
    cell = table.rows["attention"]["compactness"]
    assert (cell.estimate.value, cell.images, cell.undefined) == (0.25, 1, 1)
    assert "not defined on 1 of 2 images" in tables.undefined_words(table)[0]
    never = [row(name, "zebra", "rollout", "compactness", np.nan) for name in "ab"]
    table, = tables.tables(results_of(never))
    assert table.rows["rollout"]["compactness"].undefined == 2
    assert "not defined" in tables.to_markdown(results_of(never))


def test_equal_means_are_both_the_best():
    rows = [row("a", "zebra", method, "mif", 3.0) for method in ("cdam", "attention")]
    table, = tables.tables(results_of([*rows, row("a", "zebra", "rollout", "mif", 4.0)]))
    assert table.best(QUANTITIES["mif"]) == {"cdam", "attention"}


# ---- intervals -----------------------------------------------------------------------------------


def test_intervals_against_a_slow_bootstrap_of_whole_images():
    """Rows of the images that are drawn are put together anew, 2000 times."""
    draw = np.random.default_rng(3)
    shift = draw.normal(size=25)
    rows = [row(f"i{n}", output, "cdam", "box", shift[n] + draw.normal(0, 0.1))
            for n in range(25) for output in ("zebra", "elephant")]  # fmt: skip
    table, = tables.tables(results_of(rows))
    found = table.rows["cdam"]["box"].estimate
    by_image = [[r["value"] for r in rows if r["image"] == f"i{n}"] for n in range(25)]
    slow = [np.mean([np.mean(by_image[i]) for i in draw.integers(0, 25, 25)]) for _ in range(2000)]
    assert found.value == pytest.approx(np.mean([r["value"] for r in rows]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])),
                                                    abs=0.03)  # fmt: skip
    # Drawing the rows as if they were independent would promise too much.
    values = np.array([[r["value"]] for r in rows])
    _, low, high = bootstrap_means(values)
    assert high[0] - low[0] < 0.8 * (found.high - found.low)


def test_the_two_bootstraps_agree():
    values = np.random.default_rng(0).normal(size=(30, 3))
    mean, low, high = bootstrap_means(values, seed=5)
    for k in range(3):
        sums = np.stack([values[:, k], np.ones(30)], 1)
        one = bootstrap(sums, lambda s: s[..., 0] / s[..., 1], 5)
        assert (one.value, one.low, one.high) == pytest.approx((mean[k], low[k], high[k]), abs=1e-6)


def test_the_intervals_cover_the_truth_as_often_as_they_say():
    """Of 200 made-up runs of 60 images: 95 % within three standard errors."""
    draw, covered = np.random.default_rng(1), 0
    for seed in range(200):
        _, low, high = bootstrap_means(draw.exponential(2.0, size=(60, 1)), seed)
        covered += low[0] <= 2.0 <= high[0]
    assert 0.90 <= covered / 200 <= 0.995
    assert DRAWS >= 1000


# ---- curves --------------------------------------------------------------------------------------


def test_mean_curves_and_their_areas_are_those_of_the_tables():
    found = results_of(runs.pairs(5))
    for quantity in (q for q in QUANTITIES.values() if q.has_curve):
        curve = averages.curve(found, "partial_lrp", quantity)
        scale = 1 if quantity.measure == "box" else 100
        expected = averages.per_image(found, "partial_lrp", quantity).mean()
        assert np.trapezoid(curve.mean, scale * curve.x) == pytest.approx(expected, rel=1e-4)
        assert (curve.low <= curve.mean).all()
        assert curve.images == 5
    assert averages.curve(found, "rollout", QUANTITIES["mif"]) is None


def test_curves_at_different_positions_meet_on_a_grid():
    rows = [row("a", "zebra", "cdam", "mif", 1, x=(0, 0.5, 1), curve=(2, 1, 0)),
            row("b", "zebra", "cdam", "mif", 1, x=(0, 1), curve=(4, 0))]  # fmt: skip
    curve = averages.curve(results_of(rows), "cdam", QUANTITIES["mif"])
    np.testing.assert_allclose(curve.mean, 3 * (1 - curve.x), atol=1e-5)


# ---- files ---------------------------------------------------------------------------------------


def test_markdown_and_csv_hold_the_same_numbers():
    found = results_of(runs.pairs(8), runs.ABOUT)
    lines = list(csv.DictReader(io.StringIO(tables.to_csv(tables.tables(found), found.about))))
    text = tables.to_markdown(found)
    assert "SIMULATED DATA" in text.splitlines()[0]
    for told in ("- Data: scenes:pairs", "- Images left out: 1: 1 truncated", "- Input: 336 × 336",
                 "- Blur / shorter side: 0\\.04167", "cannot be asked by: Partial LRP"):
        assert told.replace("\\", "") in text
    part = text.partition("## Correctness")[2]
    printed = next(line for line in part.splitlines() if line.startswith("| Partial LRP"))
    numbers = [float(number) for number in re.findall(r"[\d.]+", printed)]
    kept = [float(line[name]) for line in lines for name in ("mean", "low", "high")
            if (line["table"], line["method"]) == ("correctness", "partial_lrp")]  # fmt: skip
    assert len(kept) == 4 * 3
    assert numbers == pytest.approx(kept, abs=0.051)
    assert {line["method"] for line in lines} >= {"cdam", RANDOM}
    assert text == tables.to_markdown(found)  # the same draws
    assert "paper" not in text.partition("\n## ")[2]


@pytest.mark.parametrize(("data", "box", "name"), [
    ({"id": "X_multi", "is_imagenet": True}, 12.2, "Table 2"),
    ({"id": "folder with labels", "is_imagenet": True}, 11.3, "Table S1"),
])
def test_the_papers_numbers_stand_beside_ours_on_its_data(data, box, name):
    found = results_of(runs.pairs(3), {"data": data})
    table = next(t for t in tables.tables(found) if t.layout.id == "correctness")
    assert table.rows["cdam"]["box"].paper == box
    assert table.rows[RANDOM]["box" if "box" in table.rows[RANDOM] else "mif"].paper is None
    text = tables.to_markdown(found)
    assert f"(the paper's {name})" in text
    assert "paper: A_box ↑" in text


def test_the_papers_numbers_are_those_that_it_prints():
    """LIF − MIF is the difference of the areas; in one place the paper itself is 10 off."""
    off = {(data, method): columns["lif"][method] - columns["mif"][method] - area
           for data, columns in tables.PAPER.items()
           for method, area in columns["fidelity"].items()}  # fmt: skip
    assert off.pop(("val", "integrated_cdam")) == 1459 - 696 - 753
    assert max(map(abs, off.values())) <= 2  # rounding of three numbers
    assert tables.PAPER["multi"]["compactness"]["partial_lrp"] == 0.74
    assert tables.PAPER["multi"]["fidelity_discrimination"]["smooth_cdam"] == 823
    assert "paper" not in tables.to_csv([], {}).splitlines()[1:]


def test_texts_of_a_run_cannot_become_markup_or_formulas():
    about = {"model": {"id": "=1+1"}, "data": {"id": "<b>x</b> | [a](b)\n# c"}}
    found = results_of(runs.pairs(2), about)
    text = tables.to_markdown(found)
    assert "\\<b\\>x" in text
    assert "\n# c" not in text
    line = next(csv.DictReader(io.StringIO(tables.to_csv(tables.tables(found), about))))
    assert not line["model"].startswith("=")


# ---- what is refused -----------------------------------------------------------------------------


def test_a_folder_and_a_zip_of_it_read_alike(tmp_path):
    folder = runs.write(tmp_path / "run", BY_HAND)
    one = reading.read_folder(folder)
    members = {f"run/{path.name}": path.read_bytes() for path in folder.iterdir()}
    members["run/parts/a.parquet"] = b"not looked at"
    two = reading.read_zip(_zip(members))
    assert one.about == two.about == runs.ABOUT
    np.testing.assert_array_equal(one.value, two.value)
    assert one.names == two.names


def _zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def test_unknown_methods_and_measures_are_left_out_and_told():
    rows = [*BY_HAND, row("a", "zebra", "their_method", "mif", 1.0),
            row("a", "zebra", "cdam", "beauty", 1.0), row("a", "zebra", "cdam", "truth", 1.0)]
    found = results_of(rows)
    assert len(found) == len(BY_HAND)
    assert found.notes == ("1 method of this run is unknown here and left out.",
                           "2 measures of this run are unknown here and left out.")  # fmt: skip


@cache
def damaged_files():
    good, about = runs.parquet(BY_HAND), json.dumps(runs.ABOUT).encode()
    pa, parquet = arrow()

    def written(table):
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        return buffer.getvalue()

    other = written(pa.table({"a": [1, 2]}))
    wrong_type = runs.table(BY_HAND)
    place = schema().names.index("value")
    wrong_type = wrong_type.set_column(place, "value", pa.array(["x"] * len(BY_HAND)))
    return {
        "no run.json": ({"results.parquet": good}, "no run.json"),
        "no rows": ({"run.json": about}, "no results.parquet"),
        "no json": ({"results.parquet": good, "run.json": b"{"}, "no JSON object"),
        "a list": ({"results.parquet": good, "run.json": b"[]"}, "no JSON object"),
        "deep json": ({"results.parquet": good, "run.json": b"[" * 10**6}, "no JSON object"),
        "empty": ({"results.parquet": b"", "run.json": about}, "cannot be decoded"),
        "cut off": ({"results.parquet": good[:-40], "run.json": about}, "cannot be decoded"),
        "text": ({"results.parquet": b"image,target\n", "run.json": about}, "cannot be decoded"),
        "foreign": ({"results.parquet": other, "run.json": about}, "has no column"),
        "types": ({"results.parquet": written(wrong_type), "run.json": about}, "cannot be decoded"),
        "kinds": ({"results.parquet": runs.parquet([BY_HAND[0] | {"kind": "odd"}]),
                   "run.json": about}, "neither of the right nor"),
        "curves": ({"results.parquet": runs.parquet([BY_HAND[0] | {"x": [1.0]}]),
                    "run.json": about}, "do not fit"),
        "infinite": ({"results.parquet": runs.parquet([BY_HAND[0] | {"value": np.inf}]),
                      "run.json": about}, "infinite"),
        "gaps": ({"results.parquet": runs.parquet(
            [BY_HAND[0] | {"x": [0.0], "curve": [np.nan]}]), "run.json": about}, "gaps"),
        "nameless": ({"results.parquet": runs.parquet([BY_HAND[0] | {"image": None}]),
                      "run.json": about}, "without names"),
        "long names": ({"results.parquet": runs.parquet([BY_HAND[0] | {"image": "x" * 2000}]),
                        "run.json": about}, "names that no run writes"),
    }  # fmt: skip


@pytest.mark.parametrize("name", damaged_files())
def test_what_is_no_run_is_refused_in_one_sentence(name):
    files, words = damaged_files()[name]
    with pytest.raises(BadRecord, match=re.escape(words)):
        reading.read_zip(_zip(files))


@pytest.mark.parametrize("name", ["rows", "values", "bytes"])
def test_sizes_are_limited_before_anything_is_decoded(name, tmp_path):
    folder = runs.write(tmp_path / "run", BY_HAND)
    with pytest.raises(BadRecord, match="too much to be shown"):
        reading.read_folder(folder, reading.Limits(**{name: 3}))
    assert len(reading.read_folder(folder)) == len(BY_HAND)


def test_a_directory_that_promises_less_than_comes_out_does_not_help(monkeypatch):
    content = runs.parquet(BY_HAND * 50)
    monkeypatch.setattr(reading, "_check_sizes", lambda *_: None)
    monkeypatch.setattr(reading, "PIECE", 64)
    whole = reading.table_of(content, reading.Limits())
    assert len(whole) == 50 * len(BY_HAND)
    again = reading.of_table(whole)
    np.testing.assert_array_equal(again.value[: len(BY_HAND)], results_of(BY_HAND).value)
    assert again.names == results_of(BY_HAND).names
    with pytest.raises(BadRecord, match="too much to be shown"):
        reading.table_of(content, reading.Limits(bytes=2000))


def test_run_json_is_limited_too(monkeypatch):
    monkeypatch.setattr(reading, "MAX_ABOUT", 3)
    with pytest.raises(BadRecord, match=r"run\.json is larger"):
        reading.about_of(b"{  }")


def test_a_zip_is_read_with_suspicion(monkeypatch):
    content = _zip({"a/run.json": b"{}", "b/run.json": b"{}"})
    with pytest.raises(BadRecord, match="twice"):
        archive.pick(content, ("run.json",))
    with pytest.raises(BadRecord, match="no readable ZIP"):
        archive.pick(b"PK\3\4 no zip", ("run.json",))
    with pytest.raises(BadRecord, match="no readable ZIP"):
        archive.pick(content[: len(content) // 2], ("run.json",))
    bomb = _zip({"run.json": b"\0" * 2**20})
    monkeypatch.setattr(archive, "MAX_CONTENT", 2**19)
    with pytest.raises(BadRecord, match="larger than"):
        archive.pick(bomb, ("run.json",))
    assert archive.pick(_zip({"../x/run.json": b"{}"}), ("run.json",)) == {"run.json": b"{}"}


def test_a_foreign_run_json_only_leaves_lines_out():
    odd = {name: ["x", {"y": 1}] for name in (*runs.ABOUT, "other")}
    for about in (odd, dict.fromkeys(runs.ABOUT, 7), dict.fromkeys(runs.ABOUT), {}):
        found = results_of(runs.pairs(2), about)
        assert "## Correctness" in tables.to_markdown(found)
        assert tables.paper_data(about) is None
        assert tables.to_csv(tables.tables(found), about).count("\n") > 10


def test_an_empty_run_has_no_tables():
    found = results_of([])
    assert tables.tables(found) == []
    assert tables.to_markdown(found).startswith("# Benchmark")
