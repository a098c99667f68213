"""The page "Teach it" without a browser: what it says and keeps, compared with the library.

Triggers of components cannot be sent by AppTest, so the steps behind them are called on a session
of their own; the browser test presses the real thing.
"""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core import head
from pages import _concepts_desk, _links, _pickers, _state, _teach_head, _teach_read
from pages import _teach_desk as desk
from pages._concepts_samples import series
from pages._samples import samples
from tests.test_pages import FOLDER, component, own_picture, png, viewer, widget

NAMES = list(series())[:2]


def opened() -> AppTest:
    at = AppTest.from_file(str(FOLDER / "_frame.py"), default_timeout=300)
    at.session_state["frame"] = True
    at.switch_page(str(FOLDER / "teach.py")).run()
    assert not at.exception
    return at


def texts(at) -> str:
    parts = (*at.markdown, *at.caption, *at.warning, *at.info, *at.error)
    return "\n".join(element.value for element in parts).replace("\\", "")


def with_samples(*names) -> AppTest:
    at = opened()
    at.segmented_control(key="teach.way").set_value("samples").run()
    at.multiselect(key="teach.series").set_value(list(names)).run()
    at.button(key="teach.add_samples").click().run()
    assert not at.exception
    return at


@pytest.fixture(scope="module")
def taught() -> AppTest:
    """Two series of the shipped pictures, taught."""
    at = with_samples(*NAMES)
    at.button(key="teach.start").click().run()
    assert not at.exception
    return at


@pytest.fixture(scope="module")
def expected():
    """What the library makes of the same pictures."""
    examples = {series()[name].name: [e.image for e in
                _concepts_desk.shipped_examples(series()[name])] for name in NAMES}  # fmt: skip
    return head.teach(cdam.load_model("scenes"), examples)


@pytest.fixture
def session(monkeypatch):
    """A session without a browser."""
    state = {}
    monkeypatch.setattr(desk.st, "session_state", state)
    return state


def example(seed=0):
    return _concepts_desk.make_example(Image.fromarray(own_picture(seed, 64, 64)), f"noise {seed}")


def zipped(members, **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def read_zip(content):
    found, problems = _teach_read.from_zip(content, lambda *_: None)
    return {name: len(each) for name, each in found.items()}, problems


# ---- before anything is taught -------------------------------------------------------------------


def test_too_little_is_said_before_not_after():
    at = opened()
    assert at.button(key="teach.start").disabled
    assert "Class 1 needs 3 more pictures. Class 2 needs 3 more pictures." in texts(at)
    cards = component(at, "thumbs")
    assert [item["text"] for item in cards["items"]] == ["Class 1", "Class 2", "Add a class"]
    files = [("Mrs Jones.png", png(own_picture(seed)), "image/png") for seed in (1, 2)]
    files.insert(1, ("bad.png", b"no picture", "image/png"))
    at.file_uploader[0].set_value(files).run()
    assert not at.exception
    assert "Class 1 needs 1 more picture." in texts(at)
    assert "File 2: This is not a readable image" in texts(at)
    assert "Jones" not in texts(at)
    assert len(at.session_state["teach.cards"][0].examples) == 2
    at.button(key="teach.undo_button").click().run()
    assert not at.session_state["teach.cards"][0].examples


def test_names_are_plain_text_and_no_two_alike():
    at = opened()
    at.text_input(key="teach.name.0").set_value("**a** <b>").run()
    assert "\\*\\*a\\*\\*" in "\n".join(element.value for element in at.caption)
    at.text_input(key="teach.name.0").set_value("class 2").run()
    assert "Another class is called class 2 already" in texts(at)
    assert at.session_state["teach.cards"][0].name == "**a** <b>"


# ---- teaching ------------------------------------------------------------------------------------


def test_it_says_what_the_library_measures_beside_the_trivial_baseline(taught, expected):
    quality = expected[1]
    words = texts(taught)
    right = round(quality.top1 * quality.n)
    assert f"Right for {right} of 20 pictures: {100 * quality.top1:.0f} %" in words
    low, high = quality.interval
    assert f"interval {100 * low:.0f} % to {100 * high:.0f} %" in words
    assert "Always answering one class would be right for 50 %" in words
    for row in quality.worst:
        assert f"{row['name']}: {round(row['right'] * 10)} of 10 right; taken for" in words
    assert not taught.warning


def test_the_model_is_this_sessions_alone(taught):
    (model_id,) = taught.session_state["taught"]
    assert _label(taught) in _options(taught)
    other = opened()
    assert not [text for text in _options(other) if text.startswith("Taught")]
    assert "taught" not in other.session_state
    other.query_params["model"] = model_id
    other.run()
    assert other.selectbox(key="model.choice").value == "scenes"
    with pytest.raises(cdam.BadCheckpoint, match="another visit"):
        _state.get_model(model_id)


def _label(at) -> str:
    return next(iter(at.session_state["taught"].values()))[0]


def _options(at) -> list[str]:
    return list(at.selectbox(key="model.choice").options)


def test_the_comparison_shows_its_classes(taught, expected):
    at = taught
    widget(at.button, "teach.compare").click().run()
    assert not at.exception
    assert at.selectbox(key="model.choice").value.startswith(_state.TAUGHT)
    names = [series()[name].name for name in NAMES]
    model = expected[0]
    picture = cdam.open_image(next(iter(samples().values())).file)
    logits = model.logits(model.encode_image(picture)).numpy()
    a, b = np.argsort(-logits).tolist()
    assert at.title[0].value == f"Why {names[a]} rather than {names[b]}?"
    scores = cdam.explain(model, picture, [a, b, cdam.Contrast(a, b)]).scores
    for shown, one in zip(viewer(at)["shown"], scores, strict=True):
        tolerance = 0.51 * 10 ** -viewer(at)["decimals"] + 1e-3 * np.abs(one).max()
        np.testing.assert_allclose(shown["values"], one.ravel(), atol=tolerance)
    assert "Simulated" in viewer(at)["scale"]["note"]  # drawings alone were shown to it
    assert "model" not in at.query_params  # such an address would lead nobody there
    at.switch_page(str(FOLDER / "teach.py")).run()
    assert not at.exception
    at.selectbox(key="model.choice").set_value("scenes").run()
    assert "Right for" in texts(at)  # nothing is taught twice
    widget(at.button, "teach.forget").click().run()
    assert not at.exception
    assert at.selectbox(key="model.choice").value == "scenes"
    assert not at.session_state["taught"]
    assert not [key for key in at.session_state["results"] if key[0] == "teach"]
    assert "teach.latents" not in at.session_state


def test_the_file_is_the_model_with_its_card(tmp_path, expected):
    taught, quality = expected
    names = list(taught.class_names)
    outcome = _teach_head.Outcome("taught:x", "Taught", quality, dict.fromkeys(names, 10), 0, 0,
                                  "scenes")  # fmt: skip
    path = tmp_path / "mine.safetensors"
    path.write_bytes(_teach_head.file_of(outcome, taught))
    loaded = cdam.load_model(path)
    assert loaded.class_names == names
    picture = cdam.open_image(next(iter(samples().values())).file)
    for a, b in zip(*(cdam.explain(m, picture, [0, 1]).scores for m in (taught, loaded)),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with safe_open(path, "np") as file:
        card = json.loads(file.metadata()["card"])
    assert card["pictures"] == dict.fromkeys(names, 10)
    assert card["baseline"]["top1"] == 0.5
    assert card["quality"]["top1"] == quality.top1


# ---- words ---------------------------------------------------------------------------------------


def outcome_of(right: int, counts: dict[str, int], worst=()) -> _teach_head.Outcome:
    n = sum(counts.values())
    quality = head.Evaluation(n, right / n, head.wilson_interval(right, n), tuple(worst))
    return _teach_head.Outcome("taught:x", "Taught", quality, counts, 2, 1, "scenes")


def test_the_baseline_is_the_most_frequent_class():
    outcome = outcome_of(11, {"a": 9, "b*": 3}, [
        {"name": "b*", "n": 3, "right": 0.6667, "taken_for": "a", "taken": 1}])  # fmt: skip
    assert _teach_head.baseline(outcome) == ("a", 0.75)
    assert "“a”, the most frequent class, would be right for 75 %" in (
        _teach_head.result_words(outcome))  # fmt: skip
    assert not _teach_head.is_beyond_chance(outcome)  # 11 of 12: from 65 %
    assert _teach_head.is_beyond_chance(outcome_of(40, {"a": 20, "b": 20}))
    assert _teach_head.confusion_words(outcome) == ["b\\*: 2 of 3 right; taken for a once."]
    assert [words.split(" ")[0] for words in _teach_head.cautions(outcome)] == ["Fewer", "1", "2"]


# ---- the desk ------------------------------------------------------------------------------------


def test_a_picture_teaches_one_class_only_and_limits_hold(session):
    first = [example(seed) for seed in range(desk.MAX_EXAMPLES)]
    assert desk.add({"a": [*first, first[0]]}) == [
        "1 picture was left out of a: already among those of a."]  # fmt: skip
    assert [card.name for card in desk.cards()] == ["a"]  # unnamed, empty classes made room
    assert "in another class already" in desk.add({"b": [first[3], example(90)]})[0]
    assert "at most 24 pictures" in desk.add({"a": [example(91)]})[0]
    many = {f"c{i}": [example(100 + i)] for i in range(11)}
    assert desk.add(many) == ["c10 was left out: there is room for 12 classes."]
    desk.add_class()
    assert len(desk.cards()) == desk.MAX_CLASSES
    desk.undo()
    assert [card.name for card in desk.cards()] == ["a", "b"]
    many = {f"c{i}": [example(200 + 20 * i + j) for j in range(20)] for i in range(7)}
    assert desk.add(many)[-1] == (
        "5 pictures were left out of c6: too many: there is room for 160 pictures in all.")
    assert sum(len(card.examples) for card in desk.cards()) == desk.MAX_PICTURES
    desk.undo()
    desk.remove_example(desk.cards()[1].id, 0, "another")
    assert len(desk.cards()[1].examples) == 1
    desk.remove_example(desk.cards()[1].id, 0, example(90).digest[:16])
    assert not desk.cards()[1].examples


def test_steps_to_be_taken_back_hold_no_more_pictures_than_twice_the_limit(session):
    for step in range(9):
        one = example(1000 + step)
        desk.add({f"c{i}": [replace(one, digest=f"{step}.{i}.{j}") for j in range(20)]
                  for i in range(8)})  # fmt: skip
        for card in desk.cards():
            desk.delete(card.id)
        kept = {id(e) for held, _ in session["teach.undo"] for c in held for e in c.examples}
        assert 0 < len(kept) <= 2 * desk.MAX_PICTURES


def test_of_four_taught_models_the_oldest_goes(session):
    for number in range(4):
        _state.keep_taught(f"taught:{number}", "Taught", None)
        _state.keep(("teach", number), f"taught:{number}")
        _state.keep(("map", f"taught:{number}@336"), "a map")
    assert list(_state.taught()) == ["taught:1", "taught:2", "taught:3"]
    assert ("map", "taught:0@336") not in _state.remembered()
    assert [row for row in _pickers.model_labels() if row.startswith("taught:")] == [
        "taught:1", "taught:2", "taught:3"]  # fmt: skip


def test_addresses_never_name_a_taught_model(session):
    session["model.choice"] = "taught:0"
    shown = _state.picture_of(next(iter(samples().values())))
    assert not _links.can_be_shared(shown)
    session["model.choice"] = "scenes"
    assert _links.can_be_shared(shown)


# ---- ZIP and folders -----------------------------------------------------------------------------


def test_the_folders_of_a_zip_are_its_classes():
    picture = [png(own_picture(seed, 40, 40)) for seed in range(4)]
    content = zipped([
        ("photos/ripe/1.png", picture[0]), ("photos/ripe/2.png", picture[1]),
        ("photos/unripe/1.png", picture[2]), ("photos/unripe/bad.png", b"no picture"),
        ("__MACOSX/ripe/._1.png", b"x"), ("top.png", picture[3]), ("ripe/readme.txt", b"x"),
        ("../../etc/1.png", picture[3]),
    ])  # fmt: skip
    found, problems = read_zip(content)
    assert found == {"ripe": 2, "unripe": 1} | ({"etc": 1} if "etc" in found else {})
    assert len(problems) == 1
    assert problems[0].startswith("unripe, picture 2: ")


@pytest.mark.parametrize(("content", "sentence"), [
    (b"no zip", "no readable ZIP"), (b"", "no readable ZIP"),
    (zipped([("top.png", b"x")]), "no pictures in folders"),
    (zipped([(f"a/{i}.png", b"") for i in range(_teach_read.MAX_MEMBERS + 1)]), "more than 2000"),
    (zipped([(f"a/{i}.png", bytes(2**25)) for i in range(9)]), "or 256 MB"),
], ids=["text", "empty", "flat", "many", "bomb"])  # fmt: skip
def test_other_zips_are_one_sentence(content, sentence):
    found, problems = read_zip(content)
    assert not found
    assert len(problems) == 1
    assert sentence in problems[0]


def test_damaged_and_encrypted_members():
    content = bytearray(zipped([("a/1.png", png(own_picture(1)))]))
    content[60] ^= 0xFF
    found, problems = read_zip(bytes(content))
    assert not found
    assert len(problems) == 1
    whole = zipped([("a/1.png", png(own_picture(1)))])
    at = whole.rindex(b"PK\x01\x02") + 8  # the flags of the directory's entry
    locked = whole[:at] + bytes([whole[at] | 1]) + whole[at + 1 :]
    assert read_zip(locked)[1] == ["The ZIP is encrypted; expected one without a password."]


def test_allowed_folders_and_nothing_else(tmp_path, monkeypatch):
    for name, seeds in (("ripe", range(30)), ("unripe", (40, 41))):
        (tmp_path / "fruit" / name).mkdir(parents=True)
        for seed in seeds:
            (tmp_path / "fruit" / name / f"{seed:02}.png").write_bytes(
                png(own_picture(seed, 20, 20)))  # fmt: skip
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "1.png").write_bytes(png(own_picture(90, 20, 20)))
    (tmp_path / "fruit" / "link").symlink_to(tmp_path / "secret")
    assert _teach_read.from_folder("fruit", lambda *_: None)[0] == {}
    monkeypatch.setenv("CDAM_FOLDERS", str(tmp_path / "fruit"))
    found, problems = _teach_read.from_folder("fruit", lambda *_: None)
    assert {name: len(each) for name, each in found.items()} == {"ripe": 24, "unripe": 2}
    assert "at most 24 pictures" in problems[0]
    at = opened()
    at.segmented_control(key="teach.way").set_value("folder").run()
    at.button(key="teach.read_folder").click().run()
    assert not at.exception
    assert [card.name for card in at.session_state["teach.cards"]] == ["ripe", "unripe"]
    assert "unripe needs 1 more picture." in texts(at)
