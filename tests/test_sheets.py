"""Sheets: every map in its place, with its value and its scale."""

import io
import re

import numpy as np
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core import pictures, sheets
from cdam_core.__main__ import main
from tests.conftest import tiny_vit

NAMES = ["zebra", "elephant", "owl", "d", "e"]


@pytest.fixture(scope="module")
def model():
    return cdam.wrap(tiny_vit(), NAMES, simulated=True)


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    return [Image.fromarray(each) for each in pixels]


def titles(lines):
    return [[tile.title.replace("\n", ": ").split(", ")[0] for tile in line] for line in lines]


def test_lines_are_pictures_methods_or_targets(model, images):
    ask = (model, images[:1], ["attention", "cdam", "integrated_cdam"], [["zebra", "owl"]])
    saw = "What the model saw"
    assert titles(sheets.lines(*ask)) == [
        [saw, "Attention map", "CDAM: zebra", "CDAM: owl", "Integrated CDAM: zebra",
         "Integrated CDAM: owl"],
    ]  # fmt: skip
    assert titles(sheets.lines(*ask, rows="methods")) == [
        [saw, "Attention map"],
        [saw, "CDAM: zebra", "CDAM: owl"],
        [saw, "Integrated CDAM: zebra", "Integrated CDAM: owl"],
    ]
    assert titles(sheets.lines(*ask, rows="targets")) == [
        [saw, "Attention map", "CDAM: zebra", "Integrated CDAM: zebra"],
        [saw, "Attention map", "CDAM: owl", "Integrated CDAM: owl"],
    ]


def test_a_map_is_drawn_from_the_librarys_scores_on_the_scale_that_is_printed(model, images):
    fox = cdam.build_concept(model, [images[1]], "fox")
    asked = ["zebra", cdam.Contrast("zebra", "owl"), fox]
    (line,) = sheets.lines(model, images[:1], ["cdam"], [asked])
    e = cdam.explain(model, images[0], asked)
    scale = pictures.shared_scale(e)
    view = model.fit(images[0], zoom=pictures.view_zoom(model.input_size)).image
    for index, tile in enumerate(line[1:]):
        assert tile.scale == scale
        value = f"{e.values[index]:+.2f}".replace("-", "−")
        assert tile.title == f"CDAM\n{e.labels[index]}, value {value}"
        expected = pictures.draw(view, e, index, scale)
        np.testing.assert_array_equal(np.asarray(tile.picture), np.asarray(expected))


def test_without_a_target_it_is_the_strongest_class_of_each_picture(model, images):
    steps = []
    found = sheets.lines(model, images, ["cdam"], on_step=lambda *done: steps.append(done))
    for line, image in zip(found, images, strict=True):
        strongest = int(model.logits(model.encode_image(image)).argmax())
        assert f"\n{NAMES[strongest]}, value" in line[1].title
    assert steps == [(1, 2), (2, 2)]


def test_files_repeat_and_print_stamp_values_and_scales(model, images):
    found = sheets.lines(model, images[:1], ["attention", "cdam"], [["zebra"]])
    svg = sheets.draw(model, found, "svg")
    assert svg == sheets.draw(model, found, "svg")
    text = svg.decode()
    for wanted in ("Model custom  ·  SIMULATED DATA", "CDAM", "Attention map",
                   f"+{found[0][2].scale:.2g}"):  # fmt: skip
        assert wanted in text
    assert re.search(r"zebra, value [+−]\d+\.\d\d", text)
    picture = Image.open(io.BytesIO(sheets.draw(model, found, "png")))
    assert picture.width > picture.height


def test_nothing_is_cut_off_and_no_line_covers_another(model, images):
    """The margin stays white, and a long title moves what is below it."""
    found = sheets.lines(model, images, ["attention", "cdam"], [["zebra"], ["owl"]], rows="methods")
    picture = np.asarray(Image.open(io.BytesIO(sheets.draw(model, found, "png"))).convert("L"))
    assert (picture[:5] == 255).all()
    assert (picture[-5:] == 255).all()
    assert (picture[:, :5] == 255).all()
    assert (picture[:, -5:] == 255).all()
    found[0][1] = pictures.Tile(found[0][1].picture, "a long title " * 12, 1.0,
                                pictures.PALETTES["purple"])  # fmt: skip
    taller = Image.open(io.BytesIO(sheets.draw(model, found, "png")))
    assert taller.height > picture.shape[0] + 60


def test_too_large_a_sheet_and_unknown_methods_are_refused(model, images, monkeypatch):
    monkeypatch.setattr(sheets, "MAX_COLUMNS", 2)
    with pytest.raises(cdam.BadTarget, match="several smaller"):
        sheets.lines(model, images[:1], ["cdam"], [["zebra", "owl"]])
    with pytest.raises(cdam.BadTarget, match="no such method"):
        sheets.lines(model, images[:1], ["magic"])
    with pytest.raises(ValueError, match="expected one of images"):
        sheets.lines(model, images[:1], ["cdam"], rows="sideways")


def test_the_command_writes_both_files(images, tmp_path, capsys):
    images[0].save(tmp_path / "one.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    out = tmp_path / "figures" / "sheet"
    code = main(["sheet", str(tmp_path), "--method", "cdam", "--target", "zebra",
                 "--out", str(out)])  # fmt: skip
    told = capsys.readouterr()
    assert code == 1
    assert "broken: left out" in told.out
    assert "1 of 2 images were left out" in told.err
    assert {path.name for path in out.parent.iterdir()} == {
        "sheet-simulated.png", "sheet-simulated.svg",
    }  # fmt: skip
    for wrong in (["--setting", "steps=3", "--method", "cdam", "--method", "attention"],
                  ["--target", "zebr"]):  # fmt: skip
        assert main(["sheet", str(tmp_path / "one.png"), *wrong, "--out", str(out)]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["sheet", str(tmp_path / "broken.png"), "--out", str(out)]) == 2
