"""The command line, run as a user runs it."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core import provenance, replaying, series
from cdam_core.__main__ import main
from cdam_core.benchmarks import compactness
from cdam_core.files import write_atomically


@pytest.fixture
def folder(tmp_path):
    """Two images and one file that is none."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), np.uint8)
    Image.fromarray(noise[0]).save(tmp_path / "one.png")
    Image.fromarray(noise[1]).save(tmp_path / "two.jpg")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    return tmp_path


def rows_in(out):
    return list(csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines()))


def test_explain_writes_what_the_library_computes_and_replay_finds_it_identical(folder, capsys):
    out = folder / "out"
    code = main(["explain", str(folder / "one.png"), "--target", "zebra", "--target",
                 "zebra~elephant", "--method", "integrated_cdam", "--setting", "steps=7",
                 "--out", str(out)])  # fmt: skip
    assert code == 0
    assert "zebra − elephant" in capsys.readouterr().out
    model = cdam.load_model("scenes")
    image = cdam.open_image(folder / "one.png")
    e = cdam.explain(model, image, ["zebra", cdam.Contrast("zebra", "elephant")],
                     "integrated_cdam", steps=7)  # fmt: skip
    assert {path.name for path in out.iterdir()} == {"one-simulated.zip", "table.csv"}
    content = (out / "one-simulated.zip").read_bytes()
    np.testing.assert_array_equal(replaying.read(content).arrays[0]["scores"], e.scores)
    assert content == provenance.pack(model, image, [e])
    first, second = rows_in(out)
    assert (first["target"], second["target"]) == ("zebra", "zebra − elephant")
    assert float(first["value"]) == float(e.values[0])
    assert float(first["sum_for"]) == pytest.approx(e.scores[0].clip(0)[e.content].sum(), rel=1e-5)
    assert float(second["sum_against"]) == pytest.approx(
        e.scores[1].clip(max=0)[e.content].sum(), rel=1e-5)  # fmt: skip
    assert float(first["compactness"]) == pytest.approx(compactness(e.scores[0][e.content]))

    ask = ["replay", str(out / "one-simulated.zip"), "--image"]
    assert main([*ask, str(folder / "one.png")]) == 0
    assert capsys.readouterr().out.startswith("identical")
    assert main([*ask, str(folder / "two.jpg")]) == 1
    assert "the picture is another one" in capsys.readouterr().out
    assert main(ask[:2]) == 2
    assert "give the picture" in capsys.readouterr().err
    assert main(["replay", str(folder / "one.png")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_goes_on_where_it_stopped_and_names_what_it_left_out(folder, capsys):
    out = folder / "out"
    arguments = ["explain", str(folder), "--out", str(out)]
    assert main(arguments) == 1
    first = capsys.readouterr()
    assert "broken: left out" in first.out
    assert "1 of 3 images were left out" in first.err
    whole = rows_in(out)
    assert [row["image"] for row in whole] == ["broken", "one", "one", "two", "two"]
    assert whole[0]["status"] == "left out: unreadable"
    stamp = (out / "two-simulated.zip").stat().st_mtime_ns
    (out / "one-simulated.zip").unlink()
    with (out / "table.csv").open("a") as file:
        file.write("one,do")  # a stop in the middle of a line
    assert main(arguments) == 1
    second = capsys.readouterr().out
    assert "two: done before" in second
    assert "one: done before" not in second
    assert (out / "two-simulated.zip").stat().st_mtime_ns == stamp
    assert rows_in(out) == whole
    Image.new("RGB", (60, 60), "red").save(folder / "two.jpg")
    main([*arguments, "--target", "zebra"])
    assert "done before" not in capsys.readouterr().out, "another question is another job"


def test_a_changed_picture_is_done_again_and_a_stop_keeps_what_is_done(
    folder, capsys, monkeypatch
):
    out = folder / "out"
    (folder / "broken.png").unlink()
    arguments = ["explain", str(folder), "--target", "owl", "--out", str(out)]
    original = series.answer

    def stopped(model, image, question):
        if (out / "one-simulated.zip").exists():
            raise KeyboardInterrupt
        return original(model, image, question)

    monkeypatch.setattr(series, "answer", stopped)
    assert main(arguments) == 2
    assert "stopped" in capsys.readouterr().err
    assert [row["image"] for row in rows_in(out)] == ["one"]
    monkeypatch.undo()
    assert main(arguments) == 0
    assert "one: done before" in capsys.readouterr().out
    Image.new("RGB", (60, 60), "red").save(folder / "one.png")
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "one: done before" not in told
    assert "two: done before" in told


def test_a_table_gives_every_image_its_own_target_and_every_method_can_be_asked(folder):
    table = folder / "table.csv"
    table.write_text("image,target\none.png,zebra\ntwo.jpg,3\none.png,dog~cat\n", encoding="utf-8")
    out = folder / "out"
    assert main(["explain", str(table), "--method", "rollout", "--fit", "crop",
                 "--out", str(out)]) == 0  # fmt: skip
    assert [(row["image"], row["target"]) for row in rows_in(out)] == [
        ("one", "zebra"), ("two", "lion"), ("one-2", "dog − cat"),
    ]  # fmt: skip
    assert cdam.replay(out / "one-2-simulated.zip", folder / "one.png").is_identical


def test_concepts_are_explained_from_their_files(folder, capsys):
    model = cdam.load_model("scenes")
    image = cdam.open_image(folder / "one.png")
    names = []
    for name, angle in (("noise", 0), ("turned", 90)):
        concept = cdam.build_concept(model, [image.rotate(angle)], name)
        names.append(str(folder / f"{name}.safetensors"))
        concept.save(names[-1])
    out = folder / "out"
    assert main(["explain", str(folder / "two.jpg"), "--concept", names[0], "--concept",
                 "~".join(names), "--out", str(out)]) == 0  # fmt: skip
    assert [row["target"] for row in rows_in(out)] == ["noise", "noise − turned"]
    assert cdam.replay(out / "two-simulated.zip", folder / "two.jpg").is_identical
    assert main(["explain", str(folder / "two.jpg"), "--concept", str(folder / "one.png"),
                 "--out", str(out)]) == 2  # fmt: skip
    assert "no readable concept" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--size", "1000"], "multiples of the patch size"),
        (["--device", "nonsense"], "not available to PyTorch here"),
        (["--pool", "avg"], "class token of its last block alone"),
    ],
)
def test_how_a_model_computes_is_refused_in_one_line(options, sentence, tmp_path, capsys):
    place = tmp_path / "grey.png"
    Image.new("RGB", (40, 40), "grey").save(place)
    assert main(["explain", str(place), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_size_and_bits_are_part_of_what_is_asked(tmp_path, capsys):
    place = tmp_path / "grey.png"
    Image.new("RGB", (40, 40), "grey").save(place)
    command = ["explain", str(place), "--out", str(tmp_path / "out"), "--size", "112"]
    assert main([*command, "--device", "cpu"]) == 0
    first = (tmp_path / "out" / "table.csv").read_text("utf-8")
    assert main([*command, "--device", "cpu", "--half"]) == 0
    assert (tmp_path / "out" / "table.csv").read_text("utf-8") != first  # answered anew
    assert main([*command, "--device", "cpu", "--half"]) == 0
    assert "done before" in capsys.readouterr().out.splitlines()[-1]
