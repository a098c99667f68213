"""Sheets of lung nodules: the models' values, the readers' and the scales, as text and as files."""

import io
import statistics

import numpy as np
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core import pictures
from cdam_core.__main__ import main
from cdam_core.nodules import BIOMARKERS, Phantom, load_nodules, load_split, to_image
from cdam_core.nodules import sheets as nodule_sheets
from cdam_core.nodules.card import BANNER

BY_ID = {nodule.id: nodule for nodule in load_nodules()}


@pytest.fixture(scope="module")
def markers():
    return cdam.load_model("nodules-biomarkers")


@pytest.fixture(scope="module")
def malignancy():
    return cdam.load_model("nodules-malignancy")


def spelled(value):
    return f"{value:+.2f}".replace("-", "−")


def readers_said(nodule, name):
    """Mean ± SD (how many) from the bare ratings."""
    found = [float(reader.ratings[name]) for reader in nodule.readers]
    return f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f} ({len(found)})"


# ---- which nodules -------------------------------------------------------------------------------


def test_nodules_are_chosen_by_id_in_the_order_given_and_once():
    first, second = (load_split().test[k] for k in (3, 0))
    chosen = nodule_sheets.choose(f"nodules:{first},{second},{first}")
    assert [nodule.id for nodule in chosen] == [first, second]


def test_a_part_gives_both_labels_in_turns_and_all_of_it_when_all_is_asked():
    test = load_split().test
    six = nodule_sheets.choose("nodules:test:6")
    assert [nodule.malignant for nodule in six] == [True, False] * 3
    for label in (True, False):
        lowest = sorted(i for i in test if BY_ID[i].malignant == label)[:3]
        assert [nodule.id for nodule in six if nodule.malignant == label] == lowest
    everyone = nodule_sheets.choose(f"nodules:test:{len(test)}")
    assert sorted(nodule.id for nodule in everyone) == sorted(test)
    assert {n.id for n in nodule_sheets.choose("nodules:val:5")} <= set(load_split().val)


@pytest.mark.parametrize("written", [
    "nodules:", "nodules:abc", "nodules:-3", "nodules:3,", "nodules:3, 5", "nodules:³",
    "nodules:1e3", "nodules:test", "nodules:test:", "nodules:test:six", "nodules:all:3",
    "nodules:test:6:1", "nodules:" + "9" * 5000, "nodules:\u0663",
])  # fmt: skip
def test_what_is_no_id_gets_one_sentence_that_says_how_to_write_it(written):
    with pytest.raises(cdam.CdamError, match="expected nodules:ID") as told:
        nodule_sheets.choose(written)
    assert told.value.reason == "wrong-type"
    assert len(str(told.value)) < 200


@pytest.mark.parametrize(("written", "words"), [
    ("nodules:999999", "no nodule 999999 among the 862"),
    ("nodules:test:0", "expected 1 to 130"),
    ("nodules:test:131", "131 nodules were asked for; expected 1 to 130"),
])  # fmt: skip
def test_nodules_that_are_not_there_are_named(written, words):
    with pytest.raises(cdam.CdamError, match=words) as told:
        nodule_sheets.choose(written)
    assert told.value.reason == "not-found"


# ---- what is on a sheet --------------------------------------------------------------------------


def test_eight_biomarkers_have_explains_values_the_readers_and_a_scale_each(markers):
    (nodule,) = nodule_sheets.choose("nodules:test:1")
    ((saw, attention, *maps),) = nodule_sheets.lines(markers, [nodule], ["attention", "cdam"])
    image = to_image(Phantom().crop(nodule))
    e = cdam.explain(markers, image, list(BIOMARKERS))
    view = markers.fit(image, zoom=pictures.view_zoom(markers.input_size)).image
    np.testing.assert_array_equal(np.asarray(saw.picture), np.asarray(view))
    assert saw.title.startswith(f"Nodule {nodule.id}\nsimulated CT, 32 mm wide\n")
    assert (attention.title, attention.palette.signed) == ("Attention map", False)
    assert len(maps) == len(BIOMARKERS)
    for index, (name, tile) in enumerate(zip(BIOMARKERS, maps, strict=True)):
        method_line, value_line, readers_line = tile.title.split("\n")
        unit = " mm" if name == "diameter" else ""
        assert method_line == f"CDAM: {name}"
        assert value_line == f"value {e.values[index]:.1f}{unit}"
        if name == "diameter":
            assert readers_line.startswith(f"readers {np.mean(nodule.diameters):.1f} ± ")
            assert readers_line.endswith(f" mm ({len(nodule.readers)})")
        else:
            assert readers_line == f"readers {readers_said(nodule, name)}"
        assert tile.scale == pytest.approx(np.quantile(np.abs(e.scores[index]), 0.99), rel=1e-5)
        expected = pictures.draw(view, e, index, tile.scale)
        np.testing.assert_array_equal(np.asarray(tile.picture), np.asarray(expected))
    assert len({tile.scale for tile in maps}) == len(BIOMARKERS)


def test_malignancy_is_a_logit_beside_the_readers_opinion(malignancy):
    nodules = nodule_sheets.choose("nodules:test:2")
    found = nodule_sheets.lines(malignancy, nodules, ["cdam"])
    assert [line[0].title.split()[-1] for line in found] == ["malignant", "benign"]
    for nodule, (_, tile) in zip(nodules, found, strict=True):
        e = cdam.explain(malignancy, to_image(Phantom().crop(nodule)), "malignant")
        readers = readers_said(nodule, "malignancy")
        assert tile.title == (f"CDAM: malignant\nlogit {spelled(e.values[0])}\n"
                              f"readers' malignancy {readers}")  # fmt: skip


def test_a_contrast_has_a_value_and_no_readers(markers):
    (nodule,) = nodule_sheets.choose("nodules:test:1")
    asked = cdam.Contrast("margin", "texture")
    found = nodule_sheets.lines(markers, [nodule], ["cdam"], [asked], rows="methods")
    e = cdam.explain(markers, to_image(Phantom().crop(nodule)), asked)
    assert found[0][1].title == f"CDAM: {e.labels[0]}\nvalue {spelled(e.values[0])}"


def test_models_of_something_else_and_too_many_nodules_are_refused(malignancy):
    nodules = nodule_sheets.choose("nodules:test:61")
    with pytest.raises(cdam.BadTarget, match="several smaller"):
        nodule_sheets.lines(malignancy, nodules, ["cdam"])
    scenes = cdam.load_model("scenes")
    for targets in ((), ["zebra"]):
        with pytest.raises(cdam.BadTarget, match="expected nodules-malignancy"):
            nodule_sheets.lines(scenes, nodules[:1], ["cdam"], targets)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_writes_stamped_files_with_every_number_as_text(tmp_path, capsys, malignancy):
    out = tmp_path / "figures" / "figure12"
    assert main(["sheet", "nodules:test:2", "--model", "nodules-malignancy",
                 "--out", str(out)]) == 0  # fmt: skip
    chosen = nodule_sheets.choose("nodules:test:2")
    assert f"[2/2] nodule {chosen[1].id}" in capsys.readouterr().out
    assert {path.name for path in out.parent.iterdir()} == {
        "figure12-simulated.png", "figure12-simulated.svg",
    }  # fmt: skip
    svg = out.with_name("figure12-simulated.svg").read_text("utf-8")
    for line in nodule_sheets.lines(malignancy, chosen, ["attention", "cdam"]):
        for tile in line:
            ends = () if tile.scale is None else pictures.scale_ends(tile.scale, tile.palette)
            for text in (*tile.title.split("\n"), *ends):
                assert f"<!-- {text} -->" in svg
    assert "Model nodules-malignancy  ·  SIMULATED DATA" in svg
    assert BANNER.split(".")[0] in svg
    picture = Image.open(io.BytesIO(out.with_name("figure12-simulated.png").read_bytes()))
    assert min(picture.size) > 600


@pytest.mark.parametrize("arguments", [
    ["nodules:999999", "--model", "nodules-malignancy"],
    ["nodules:test:1"],
    ["nodules:test:1", "--model", "nodules-malignancy", "--concept", "fox.safetensors"],
    ["nodules:test:1", "--model", "nodules-malignancy", "--target", "margin"],
])  # fmt: skip
def test_the_command_says_in_one_line_what_it_cannot_draw(arguments, tmp_path, capsys):
    out = tmp_path / "sheet"
    assert main(["sheet", *arguments, "--out", str(out)]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("cdam: ")
    assert len(told.splitlines()) == 1
    assert not list(tmp_path.iterdir())
