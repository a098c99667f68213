"""The command line, run as a user runs it."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core.__main__ import main
from cdam_core.files import write_atomically


@pytest.fixture
def folder(tmp_path):
    """Two images and one file that is none."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), np.uint8)
    Image.fromarray(noise[0]).save(tmp_path / "one.png")
    Image.fromarray(noise[1]).save(tmp_path / "two.jpg")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    return tmp_path


def test_explain_writes_what_the_library_computes(folder, capsys):
    out = folder / "out"
    code = main(["explain", str(folder / "one.png"), "--target", "zebra", "--target",
                 "zebra~elephant", "--method", "integrated_cdam", "--setting", "steps=7",
                 "--out", str(out)])  # fmt: skip
    assert code == 0
    model = cdam.load_model("scenes")
    image = cdam.open_image(folder / "one.png")
    e = cdam.explain(model, image, ["zebra", cdam.Contrast("zebra", "elephant")],
                     "integrated_cdam", steps=7)  # fmt: skip
    with np.load(out / "one-simulated.npz") as archive:
        np.testing.assert_array_equal(archive["scores"], e.scores)
    record = json.loads((out / "one.json").read_text(encoding="utf-8"))
    assert record["method"] == "integrated_cdam"
    assert record["simulated"] is True  # as the card of the scenes model says
    assert record["settings"] == {"steps": 7, "at": "tokens"}
    assert record["scale"] == pytest.approx(float(np.abs(e.scores).max()))
    with Image.open(out / "one-simulated.png") as picture:
        assert picture.width > 500
    rows = list(
        csv.DictReader((out / "one-simulated.csv").read_text(encoding="utf-8").splitlines()[1:])
    )
    assert len(rows) == 2 * 16 * 16
    assert "zebra − elephant" in capsys.readouterr().out
    assert not list(out.glob("*.part"))


def test_a_folder_goes_on_where_it_stopped_and_names_what_it_left_out(folder, capsys):
    out = folder / "out"
    arguments = ["explain", str(folder), "--out", str(out)]
    assert main(arguments) == 1
    first = capsys.readouterr()
    assert "broken: left out" in first.out
    assert "1 of 3 images were left out" in first.err
    stamp = (out / "two-simulated.npz").stat().st_mtime_ns
    (out / "one.json").unlink()
    assert main(arguments) == 1
    second = capsys.readouterr().out
    assert "two: done before" in second
    assert "one: done before" not in second
    assert (out / "two-simulated.npz").stat().st_mtime_ns == stamp
    main([*arguments, "--target", "zebra"])
    assert "done before" not in capsys.readouterr().out, "another question is another job"


def test_a_table_gives_every_image_its_own_target(folder, capsys):
    table = folder / "table.csv"
    table.write_text("image,target\none.png,zebra\ntwo.jpg,3\none.png,dog~cat\n", encoding="utf-8")
    out = folder / "out"
    assert main(["explain", str(table), "--out", str(out)]) == 0
    names = [json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["targets"][0]
             for name in ("one", "two", "one-2")]  # fmt: skip
    assert names[0]["name"] == "zebra"
    assert names[1]["index"] == 3
    assert names[2]["kind"] == "contrast"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target", "zebr"], "Did you mean zebra"),
        (["--target", "99"], "classes 0 to 39"),
        (["--setting", "steps"], "NAME=VALUE"),
        (["--setting", "wrong=1"], "has no setting"),
        (["--setting", "path=sideways"], "expected one of both, value, key"),
        (["--model", "nowhere"], "No such model"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(folder, capsys, arguments, sentence):
    out = folder / "out"
    assert main(["explain", str(folder / "one.png"), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.csv", ""), ("columns.csv", "a,b\n1,2\n"), ("binary.csv", None)],
)
def test_bad_tables(folder, capsys, name, content):
    table = folder / name
    table.write_bytes(b"\xff\xfe\x00\x81" if content is None else content.encode())
    assert main(["explain", str(table), "--out", str(folder / "out")]) == 2
    assert "column" in capsys.readouterr().err


def test_an_empty_folder_and_a_missing_file(tmp_path, capsys):
    assert main(["explain", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no images" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "no.png"), "--out", str(tmp_path / "out")]) == 1
    assert "left out" in capsys.readouterr().out


def test_models_lists_every_bundled_model(capsys):
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    for name, card in cdam.MODELS.items():
        assert name in listed
        assert card["label"] in listed


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "cdam_core", "explain", "--help"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert "IMAGE|FOLDER|TABLE.csv" in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "cdam_core"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_nothing_half_written_is_left_behind(tmp_path, monkeypatch):
    target = tmp_path / "result.npz"
    write_atomically(target, b"old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
