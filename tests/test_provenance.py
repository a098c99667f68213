"""A ZIP of results: it repeats byte for byte, computes again as identical, and hides nothing."""

import csv
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core import archive, provenance, replaying
from cdam_core.assets import assets_dir
from cdam_core.benchmarks import to_patches
from cdam_core.methods import METHODS
from tests.conftest import tiny_vit

NAMES = ["zebra", "co$t", "日本", "d", "d"]
REPLAYED = [name for name in METHODS if METHODS[name].cost != "minutes"]


@pytest.fixture(scope="module")
def model():
    return cdam.wrap(tiny_vit(), NAMES, simulated=True)


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    return cdam.open_image(provenance.pictures.png(Image.fromarray(pixels)))


@pytest.fixture(scope="module")
def packed(model, image):
    """One ZIP with pictures, of two classes and their difference."""
    e = cdam.explain(model, image, ["zebra", "日本", cdam.Contrast("zebra", "日本")])
    region = cdam.Region("box", ((0.0, 0.0), (0.5, 0.5)))
    return e, provenance.pack(model, image, [e], regions=[region])


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the pictures out, where a test is not about them."""
    monkeypatch.setattr(provenance, "_pictures", lambda *_: {})


def members(content):
    return archive.unpack(content)


def facts(content):
    return json.loads(members(content)["explanation.json"])


def repacked(content, changes=None, **entries):
    """The ZIP with other files or entries, and digests that fit, as a forger would make it."""
    files = members(content) | (changes or {})
    record = json.loads(files.pop("explanation.json")) | entries
    record["files"] = {name: provenance.sha256(data) for name, data in files.items()}
    return archive.pack(files | {"explanation.json": json.dumps(record).encode()})


# ---- what is in it -------------------------------------------------------------------------------


def test_the_same_explanation_gives_the_same_bytes(model, image, packed):
    e, content = packed
    again = cdam.explain(model, image, ["zebra", "日本", cdam.Contrast("zebra", "日本")])
    assert again.seconds != e.seconds
    region = cdam.Region("box", ((0.0, 0.0), (0.5, 0.5)))
    assert provenance.pack(model, image, [again], regions=[region]) == content


def test_it_holds_pictures_scores_and_settings_but_not_the_picture(image, packed):
    e, content = packed
    files = members(content)
    assert sorted(files) == [
        "explanation.json", "maps-simulated.pdf", "maps-simulated.png", "maps-simulated.svg",
        "patches.csv", "reproduce.py", "scores.npz",
    ]  # fmt: skip
    with np.load(io.BytesIO(files["scores.npz"])) as arrays:
        np.testing.assert_array_equal(arrays["scores"], e.scores)
        np.testing.assert_array_equal(arrays["content"], e.content)
        np.testing.assert_array_equal(arrays["rest"], e.rest)
    rows = list(csv.DictReader(io.StringIO(files["patches.csv"].decode())))
    assert [float(row["score"]) for row in rows] == e.scores.ravel().tolist()
    assert "SIMULATED DATA" in files["maps-simulated.svg"].decode()
    assert files["maps-simulated.pdf"].startswith(b"%PDF")
    assert Image.open(io.BytesIO(files["maps-simulated.png"])).width > 500
    raw = image.tobytes()
    assert not any(raw[:600] in data for data in files.values())


def test_the_record_says_everything_that_made_the_scores(model, image, packed):
    record = facts(packed[1])
    assert record["simulated"] is True
    assert record["model"]["weights_sha256"] == model.weights_sha256
    assert record["model"]["input_size"] == [32, 48]
    assert record["image"]["sha256"] == cdam.images.digest(image)
    assert record["image"]["size"] == [60, 70]
    assert record["image"]["sample"] is None
    assert record["preprocessing"]["fit"] == "pad"
    (made,) = record["explanations"]
    assert made["settings"] == {"heads": None, "path": "both"}
    assert made["targets"][0] == {"kind": "class", "index": 0, "name": "zebra"}
    assert made["targets"][2]["kind"] == "contrast"
    assert made["values"] == [float(v) for v in packed[0].values]
    assert record["regions"] == [{"kind": "box", "points": [[0, 0], [0.5, 0.5]]}]
    assert set(record["versions"]) == {"cdam_core", "python", "torch", "timm", "numpy", "pillow"}
    assert "seconds" not in json.dumps(record)


def test_nothing_of_the_picture_is_in_the_drawings_either_unless_asked_for(model, image, packed):
    """Drawn from two different pictures, the maps of one explanation come out the same."""
    e, content = packed
    drawn = {name: data for name, data in members(content).items() if name.startswith("maps")}
    other = image.rotate(180)
    assert {name: data for name, data in members(provenance.pack(model, other, [e])).items()
            if name.startswith("maps")} == drawn  # fmt: skip
    assert "The picture is not included" in drawn["maps-simulated.svg"].decode()
    asked = members(provenance.pack(model, image, [e], with_image=True))
    assert "What the model saw" in asked["maps-simulated.svg"].decode()
    assert asked["maps-simulated.png"] != drawn["maps-simulated.png"]


@pytest.mark.usefixtures("undrawn")
def test_the_picture_is_in_it_only_when_asked_for_and_then_nothing_else_is_needed(model, image):
    e = cdam.explain(model, image, "zebra")
    content = provenance.pack(model, image, [e], with_image=True)
    shown = Image.open(io.BytesIO(members(content)["image.png"]))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(image))
    assert cdam.replay(content, model=model).is_identical
    with pytest.raises(cdam.BadRecord) as caught:
        cdam.replay(provenance.pack(model, image, [e]), model=model)
    assert caught.value.reason == "needs-image"


@pytest.mark.usefixtures("undrawn")
def test_pixel_scores_are_raw_in_the_archive_and_summed_in_the_table(model, image):
    e = cdam.explain(model, image, "zebra", "input_x_gradient")
    files = members(provenance.pack(model, image, [e]))
    rows = list(csv.DictReader(io.StringIO(files["patches.csv"].decode())))
    expected = to_patches(e.scores[0], e.grid).astype(np.float32).ravel()
    np.testing.assert_array_equal(np.array([row["score"] for row in rows], np.float32), expected)
    assert archive.unpack_arrays(files["scores.npz"])["scores"].shape == (1, 32, 48)


# ---- computing it again --------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_every_method_computes_again_as_identical(model, image, fit):
    methods = REPLAYED if fit == "pad" else ["cdam", "rollout"]
    found = [cdam.explain(model, image, ["zebra", 3], method, fit=fit) for method in methods]
    few = {"smoothgrad": {"n": 3}, "integrated_gradients": {"steps": 4}, "token_ablation": {}}
    if fit == "pad":
        found += [cdam.explain(model, image, 0, name, **s) for name, s in few.items()]
        found.append(cdam.explain(model, image, 0, "cdam", heads=(1,), path="key"))
    seen = cdam.replay(provenance.pack(model, image, found, fit=fit), image, model)
    assert seen.is_bit_equal, seen.words()
    assert seen.words() == ["identical (bit-equal)"]
    assert len(seen.differences) == len(found)


@pytest.mark.usefixtures("undrawn")
def test_concepts_travel_with_it(model, image):
    concept = cdam.build_concept(model, [image.rotate(90), image.rotate(180)], "stripes")
    other = cdam.build_concept(model, [image.rotate(270)], "dots")
    asked = [concept, cdam.Contrast(concept, other), concept.using("cosine"), "zebra"]
    content = provenance.pack(model, image, [cdam.explain(model, image, asked)])
    assert [name for name in members(content) if name.startswith("concept")] == [
        "concept-1.safetensors", "concept-2.safetensors", "concept-3.safetensors",
    ]  # fmt: skip
    assert cdam.replay(content, image, model).is_bit_equal
    with pytest.raises(cdam.BadConcept):
        cdam.replay(content, image, cdam.wrap(tiny_vit(depth=3), NAMES))


def test_another_picture_or_another_model_is_told(model, image, packed):
    other = image.rotate(180)
    seen = cdam.replay(packed[1], other, model)
    assert not seen.is_same_image
    assert not seen.is_identical
    expected = np.abs(cdam.explain(model, other, ["zebra", "日本", cdam.Contrast("zebra", "日本")])
                      .scores - packed[0].scores).max() / np.abs(packed[0].scores).max()
    assert seen.differences[0].scores == pytest.approx(expected)
    assert "the picture is another one" in seen.words()[1]
    seen = cdam.replay(packed[1], image, cdam.wrap(tiny_vit(depth=3), NAMES))
    assert (seen.is_same_image, seen.is_same_weights, seen.is_identical) == (True, False, False)
    assert "the model is another one" in seen.words()[1]


def test_rounding_is_identical_but_not_bit_equal_and_more_than_rounding_is_neither(
    model, image, packed
):
    e, content = packed
    largest = np.abs(e.scores).max()
    for share, identical in ((5e-6, True), (2e-5, False)):
        scores = e.scores.copy()
        scores.flat[3] += share * largest
        arrays = {"scores": scores, "rest": e.rest, "values": e.values, "content": e.content}
        forged = repacked(content, {"scores.npz": archive.pack_arrays(arrays)})
        seen = cdam.replay(forged, image, model)
        assert (seen.is_identical, seen.is_bit_equal) == (identical, False)
        assert seen.differences[0].scores == pytest.approx(share, rel=0.05)
    assert "cdam: scores differ by up to 2.0e-05" in seen.words()[1]


def test_other_versions_are_told_and_other_shapes_are_no_crash(model, image, packed):
    content = repacked(packed[1], versions={"torch": "1.0"})
    words = cdam.replay(content, image, model).words()
    assert words[0].startswith("identical")
    assert words[1].startswith("recorded with other versions: torch 1.0 (here ")
    larger = cdam.wrap(tiny_vit(img_size=(64, 48)), NAMES)
    assert "the maps have another shape" in " ".join(cdam.replay(content, image, larger).words())


@pytest.mark.usefixtures("undrawn")
def test_a_reduced_picture_is_reduced_again(model, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (90, 240, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    small = cdam.limit_side(cdam.open_image(tmp_path / "large.png"), 100)
    assert small.size == (100, 38)
    assert small.info["notes"] == ["reduced from 240 × 90 pixels"]
    assert cdam.limit_side(small, 100) is small
    content = provenance.pack(model, small, [cdam.explain(model, small, 0)])
    assert cdam.replay(content, tmp_path / "large.png", model).is_bit_equal


@pytest.mark.usefixtures("undrawn")
def test_another_input_size_and_16_bits_are_taken_up_again():
    sample = "scenes/owl.jpg"
    image = cdam.open_image(assets_dir() / sample)
    small = cdam.load_model("scenes", (112, 112)).on("cpu", half=True)
    content = provenance.pack(small, image, [cdam.explain(small, image, "owl")], sample=sample)
    assert cdam.replay(content).is_identical
    code = members(content)["reproduce.py"].decode()
    assert "load_model('scenes').at_size((112, 112)).on(\"cpu\", half=True)" in code


@pytest.mark.usefixtures("undrawn")
def test_a_bundled_model_and_sample_need_nothing_else():
    scenes, sample = cdam.load_model("scenes"), "scenes/elephant-zebra.jpg"
    image = cdam.open_image(assets_dir() / sample)
    e = cdam.explain(scenes, image, "zebra")
    content = provenance.pack(scenes, image, [e], sample=sample)
    assert cdam.replay(content).is_identical
    elsewhere = facts(content)["image"] | {"sample": "../../secret.jpg"}
    with pytest.raises(cdam.BadRecord):
        cdam.replay(repacked(content, image=elsewhere))


# ---- the same in Python --------------------------------------------------------------------------


def run(code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(code, "reproduce.py", "exec"), names)
    return names


@pytest.mark.usefixtures("undrawn")
def test_the_code_in_it_computes_the_same(monkeypatch, tmp_path):
    scenes, sample = cdam.load_model("scenes"), "scenes/dog-cat.jpg"
    image = cdam.open_image(assets_dir() / sample)
    fox = cdam.build_concept(scenes, [image.rotate(90)], "a 'fox'\"")
    e = cdam.explain(scenes, image, ["dog", cdam.Contrast("dog", "cat"), fox],
                     "smooth_cdam", n=3, seed=7)  # fmt: skip
    files = members(provenance.pack(scenes, image, [e], sample=sample))
    (tmp_path / "concept-1.safetensors").write_bytes(files["concept-1.safetensors"])
    names = run(files["reproduce.py"].decode(), tmp_path, monkeypatch)
    np.testing.assert_array_equal(names["e"].scores, e.scores)

    image.save(tmp_path / "picture.png")
    many = [cdam.explain(scenes, image, "cat", "attention", fit="crop"),
            cdam.explain(scenes, image, 12, "cdam", fit="crop", heads=[0, 2])]  # fmt: skip
    code = provenance.as_python(provenance.describe(scenes, image, many, fit="crop"), scenes)
    found = run(code, tmp_path, monkeypatch)["found"]
    for one, two in zip(found, many, strict=True):
        np.testing.assert_array_equal(one.scores, two.scores)


def test_the_code_names_classes_unless_their_names_are_shared(model, image, packed):
    code = members(packed[1])["reproduce.py"].decode()
    assert "['zebra', '日本', cdam.Contrast('zebra', '日本')], 'cdam')" in code
    assert "checkpoint.pth" in code
    e = cdam.explain(model, image, 4)
    code = provenance.as_python(provenance.describe(model, image, [e]), model)
    assert "[4], 'cdam')" in code


# ---- hostile files -------------------------------------------------------------------------------


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def pickled():
    buffer = io.BytesIO()
    np.savez(buffer, scores=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def claiming(shape, dtype="<f4", end="}"):
    """An NPZ whose header claims more than follows."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}{end}"
    header = header.ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 8
    return archive.pack({"scores.npy": content, "rest.npy": content, "values.npy": content})


def hostile():
    """Name, content of the file (or how to change a sound one), and the reason of the refusal."""
    yield "nothing", b"", "unreadable"
    yield "no zip", b"PK\x03\x04 and then something else", "unreadable"
    yield "another zip", zipped(a="b"), "damaged"
    yield "a path upwards", zipped(**{"../evil": "x"}), "unsafe"
    yield "an absolute path", zipped(**{"/etc/evil": "x"}), "unsafe"
    yield "a drive", zipped(**{"C:evil": "x"}), "unsafe"
    yield "many members", zipped(**{f"m{i}": "" for i in range(201)}), "too-large"
    yield "a bomb", zipped(**{f"m{i}": bytes(2**26) for i in range(5)}), "too-large"
    yield "no scores", lambda c: without(c, "scores.npz"), "damaged"
    yield "no record", lambda c: without(c, "explanation.json"), "damaged"
    yield "bad json", lambda c: swapped(c, "explanation.json", b"{not json"), "damaged"
    yield "a list", lambda c: swapped(c, "explanation.json", b"[1, 2]"), "damaged"
    yield "NaN", lambda c: swapped(c, "explanation.json", b'{"format": NaN}'), "damaged"
    yield "deep", lambda c: swapped(c, "explanation.json", b"[" * 100_000), "damaged"
    yield "later", lambda c: repacked(c, format="cdam-explanation-2"), "other-version"
    yield "pickle", lambda c: repacked(c, {"scores.npz": pickled()}), "damaged"
    yield "huge", lambda c: repacked(c, {"scores.npz": claiming((10**9, 10**9))}), "damaged"
    yield "open", lambda c: repacked(c, {"scores.npz": claiming((1,), end="")}), "damaged"
    yield "ints", lambda c: repacked(c, {"scores.npz": claiming((1,), "<i8")}), "damaged"
    yield "no npz", lambda c: repacked(c, {"scores.npz": b"x"}), "unreadable"
    yield "changed", lambda c: swapped(c, "patches.csv", b"other"), "damaged"
    for name, wrong in {
        "explanations": [], "model": None, "image": {"sha256": 3}, "versions": {"a": 1},
        "preprocessing": {"fit": ["pad"]},
    }.items():  # fmt: skip
        yield f"wrong {name}", lambda c, n=name, w=wrong: repacked(c, **{n: w}), "damaged"
    for path, wrong in {
        ("method",): "eval", ("targets",): [{"kind": "evil"}], ("key",): "../x",
        ("targets", 0, "index"): -1, ("targets", 0, "kind"): "concept", ("settings",): [],
        ("targets", 2, "a"): {"kind": "contrast"},
    }.items():  # fmt: skip
        yield f"wrong {path}", lambda c, p=path, w=wrong: reset(c, p, w), "damaged"


def without(content, name):
    return archive.pack({k: v for k, v in members(content).items() if k != name})


def swapped(content, name, data):
    return archive.pack(members(content) | {name: data})


def reset(content, path, wrong):
    made = facts(content)["explanations"]
    place = made[0]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    return repacked(content, explanations=made)


@pytest.mark.parametrize(("content", "reason"), [row[1:] for row in hostile()],
                         ids=[row[0] for row in hostile()])  # fmt: skip
def test_hostile_files_are_refused_in_one_sentence(packed, image, model, content, reason):
    content = content(packed[1]) if callable(content) else content
    with pytest.raises(cdam.BadRecord) as caught:
        cdam.replay(content, image, model)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_scores_that_are_no_numbers_are_refused(packed, image, model):
    e = packed[0]
    bad = {"scores": e.scores * np.nan, "rest": e.rest, "values": e.values, "content": e.content}
    with pytest.raises(cdam.BadRecord, match="cannot be used"):
        cdam.replay(repacked(packed[1], {"scores.npz": archive.pack_arrays(bad)}), image, model)


def test_a_record_cannot_make_a_file_of_this_computer_be_loaded(packed, image, tmp_path):
    asked = facts(packed[1])["model"] | {"id": str(tmp_path / "model.pth")}
    with pytest.raises(cdam.BadRecord) as caught:
        cdam.replay(repacked(packed[1], model=asked), image)
    assert caught.value.reason == "needs-model"


def test_settings_of_a_stranger_are_checked_like_any_others(packed, image, model):
    with pytest.raises(cdam.BadTarget):
        cdam.replay(reset(packed[1], ("settings",), {"path": "sideways"}), image, model)


def test_a_file_that_lies_about_its_size_gives_no_more_than_it_said(monkeypatch):
    content = zipped(a=bytes(1000))
    monkeypatch.setattr(archive, "MAX_FILE", 50)
    with pytest.raises(cdam.BadRecord) as caught:
        archive.unpack(content)
    assert caught.value.reason == "too-large"
    at = content.index(b"PK\x01\x02") + 24  # unpacked size in the directory
    monkeypatch.undo()
    with pytest.raises(cdam.BadRecord):
        archive.unpack(content[:at] + (10).to_bytes(4, "little") + content[at + 4 :])


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(cdam.BadRecord) as caught:
        replaying.read(tmp_path / "none.zip")
    assert caught.value.reason == "unreadable"


def test_the_same_method_twice_gets_two_names(model, image):
    e = cdam.explain(model, image, 0)
    assert provenance.keys([e, replace(e), e]) == ["cdam", "cdam-2", "cdam-3"]
