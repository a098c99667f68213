"""The page "Concepts" without a browser: what it shows, compared with the library asked directly.

Triggers of components cannot be sent by AppTest, so the steps behind them are called on a session
of their own; the browser tests press the real thing.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core.concepts import concepts_to_bytes, minus_mean_of_others, similarity_of
from cdam_core.images import digest
from pages import _concepts_desk as desk
from pages import _concepts_edit as edit
from pages import _concepts_keep as keep
from pages import _concepts_shared as shared
from pages import _state
from pages._concepts_samples import scenes, series
from tests.test_pages import FOLDER, component, own_picture, png, viewer

READY = [row for row in series().values() if row.ready]
OTHERS = [row for row in series().values() if not row.ready]


@pytest.fixture(scope="module")
def model():
    return _state.get_model("scenes")


@pytest.fixture(scope="module")
def ready(model):
    """The ready-made concepts, built by the library from the files."""
    return [cdam.build_concept(model, row.files, row.name) for row in READY]


@pytest.fixture
def session(monkeypatch):
    """A session without a browser."""
    state = {}
    monkeypatch.setattr(desk.st, "session_state", state)
    return state


def opened(**state) -> AppTest:
    at = AppTest.from_file(str(FOLDER / "_frame.py"), default_timeout=120)
    at.session_state["frame"] = True
    for key, value in state.items():
        at.session_state[key] = value
    at.switch_page(str(FOLDER / "concepts.py")).run()
    assert not at.exception
    return at


def first_scene():
    return next(iter(scenes().values()))


def noise(seed=0, side=64) -> Image.Image:
    return Image.fromarray(own_picture(seed, side, side))


def example(seed=0) -> desk.Example:
    return desk.make_example(noise(seed), f"noise {seed}")


def assert_shows(at, explanation):
    data = viewer(at)
    assert [shown["name"] for shown in data["shown"]] == list(explanation.labels)
    for shown, scores in zip(data["shown"], explanation.scores, strict=True):
        tolerance = 0.51 * 10 ** -data["decimals"] + 1e-4 * np.abs(scores).max()
        np.testing.assert_allclose(shown["values"], scores.ravel(), atol=tolerance)


def texts(at) -> str:
    return "\n".join(element.value for element in (*at.markdown, *at.caption)).replace("\\", "")


# ---- what it opens with --------------------------------------------------------------------------


def test_the_samples_are_of_classes_that_the_classifier_does_not_know(model):
    assert len(READY) >= 3
    assert all(len(row.files) == 10 for row in series().values())
    assert not {row.name for row in series().values()} & set(model.class_names)
    assert {row.name for row in READY} >= set(first_scene().objects)


def test_it_opens_with_maps_of_things_that_the_classifier_cannot_name(model, ready):
    at = opened()
    a, b = ready[:2]
    assert at.title[0].value == f"What looks like {a.name} rather than {b.name}?"
    picture = cdam.open_image(first_scene().file)
    expected = cdam.explain(model, picture, [a, b, cdam.Contrast(a, b)])
    assert_shows(at, expected)
    assert [panel["badge"] for panel in viewer(at)["panels"]] == ["", "A", "B", "A − B"]
    assert f"no output for {a.name} or {b.name}" in texts(at)
    assert "The map is" in texts(at)


def test_every_similarity_shows_its_own_scores(model, ready):
    at = opened()
    picture = cdam.open_image(first_scene().file)
    for similarity in ("cosine", "l2"):
        at.selectbox(key="concepts.similarity").select(similarity).run()
        a, b = (concept.using(similarity) for concept in ready[:2])
        assert_shows(at, cdam.explain(model, picture, [a, b, cdam.Contrast(a, b)]))
        assert at.toggle(key="concepts.less").disabled
    at.selectbox(key="concepts.similarity").select("dot").run()
    at.toggle(key="concepts.less").set_value(True).run()
    a, b = (minus_mean_of_others(concept, ready) for concept in ready[:2])
    expected = cdam.explain(model, picture, [a, b, cdam.Contrast(a, b)])
    np.testing.assert_allclose(
        viewer(at)["shown"][0]["values"], expected.scores[0].ravel(), atol=2e-2
    )
    assert "less the mean of the others" in viewer(at)["scale"]["note"]


def test_one_concept_alone_and_none_at_all():
    at = opened()
    at.multiselect(key="concepts.shown").unselect(1).run()
    assert at.title[0].value == f"What looks like {READY[0].name} here?"
    assert len(viewer(at)["panels"]) == 2
    at.multiselect(key="concepts.shown").set_value([]).run()
    assert not at.exception
    assert component(at, "maps") is None


def test_the_ranking_is_the_order_of_similarities(model, ready):
    at = opened()
    at.toggle(key="concepts.rank").set_value(True).run()
    assert not at.exception
    pictures = [model.preprocess(cdam.open_image(scene.file)) for scene in scenes().values()]
    latents = np.concatenate([model.embed(pixels).numpy() for pixels in pictures])
    order = [list(scenes())[i] for i in np.argsort(-similarity_of(ready[0], latents))]
    shown = {data["label"]: [item["id"] for item in data["items"]] for data in thumbs(at)}
    assert shown["Most similar"] == order[:4]
    whole = at.dataframe[0].value
    assert whole["Picture"].tolist() == [scenes()[name].title for name in order]
    assert whole["Similarity"].is_monotonic_decreasing
    assert shown["Least similar"] == order[::-1][:4]


def thumbs(at) -> list[dict]:
    found = [json.loads(e.proto.json) for e in at.get("bidi_component")
             if e.proto.component_name == "cdam_thumbs"]  # fmt: skip
    return [data for data in found if data]


def test_a_picture_of_ones_own_is_taken_along_from_another_page(model, ready):
    picture = noise(3, 200)
    kept = _state.Picture(picture, digest(picture), ())
    at = opened(picture=kept)
    expected = cdam.explain(model, picture, [*ready[:2], cdam.Contrast(*ready[:2])])
    assert_shows(at, expected)
    assert "Forget my picture" in [button.label for button in at.button]


# ---- uploads -------------------------------------------------------------------------------------


def test_many_files_become_one_concept_and_bad_ones_are_named_by_position(model):
    at = opened(**{"concepts.way": "files"})
    files = [("a.png", png(own_picture(i, 120, 90)), "image/png") for i in range(4)]
    files.insert(1, ("b.png", b"nonsense", "image/png"))
    files.append(("c.png", files[0][1], "image/png"))
    uploader = next(u for u in at.file_uploader if (u.key or "").startswith("concepts.files"))
    uploader.upload(*files[0])
    for file in files[1:]:
        uploader.upload(*file)
    at.run()
    assert not at.exception
    warning = at.warning[0].value.replace("\\", "")
    assert "File 2: This is not a readable image" in warning
    assert "1 picture was already among the examples" in warning
    images = [Image.fromarray(own_picture(i, 120, 90)) for i in range(4)]
    expected = cdam.build_concept(model, images, "Concept 4")
    card = at.session_state["concepts.cards"][-1]
    assert [each.digest for each in card.examples] == list(expected.digests)
    picture = cdam.open_image(first_scene().file)
    shown = viewer(at)["shown"][0]
    assert shown["name"] == "Concept 4"
    scores = cdam.explain(model, picture, expected).scores.ravel()
    np.testing.assert_allclose(shown["values"], scores, atol=1e-3 * np.abs(scores).max() + 0.006)
    assert "Only 4 examples" in texts(at)


def test_more_files_than_a_concept_holds_are_left_out(session, monkeypatch):
    dropped = []
    monkeypatch.setattr(_state, "drop_raw_file", dropped.append)
    monkeypatch.setattr(_state, "open_upload", lambda file: noise(file))
    examples, problems = desk.read_uploads(range(30), desk.MAX_EXAMPLES, lambda *_: None)
    assert len(examples) == desk.MAX_EXAMPLES
    assert problems[0].startswith("File 25 was left out")
    assert len(problems) == 6
    assert dropped == list(range(30))


# ---- the desk ------------------------------------------------------------------------------------


def test_steps_can_be_taken_back_one_by_one(session):
    start = desk.cards()
    number = desk.fresh_number()
    assert desk.add_examples(number, [example(1), example(2)], "noise") == []
    desk.rename(number, "rain")
    desk.remove_example(number, 0, desk.card(number).examples[0].digest[:16])
    assert [e.digest for e in desk.card(number).examples] == [example(2).digest]
    assert desk.undo_label() == "removing example 1"
    desk.undo()
    assert len(desk.card(number).examples) == 2
    desk.undo()
    assert desk.card(number).name == "noise"
    desk.undo()
    assert desk.cards() == start
    assert desk.undo_label() == ""
    desk.undo()
    desk.delete(start[0].id)
    assert desk.cards() == start[1:]
    desk.undo()
    assert desk.cards() == start


def test_a_stale_click_removes_nothing(session):
    number = desk.fresh_number()
    desk.add_examples(number, [example(1), example(2)])
    first = desk.card(number).examples[0].digest[:16]
    desk.remove_example(number, 0, first)
    desk.remove_example(number, 0, first)
    desk.remove_example(number, 7, first)
    desk.remove_example(99, 0, first)
    assert len(desk.card(number).examples) == 1


def test_room_is_limited_and_the_memory_with_it(session):
    number = desk.fresh_number()
    many = [example(i) for i in range(desk.MAX_EXAMPLES + 3)]
    assert "3 pictures were left out" in desk.add_examples(number, many)[0]
    assert len(desk.card(number).examples) == desk.MAX_EXAMPLES
    while len(desk.cards()) < desk.MAX_CONCEPTS:
        desk.add_examples(desk.fresh_number(), [example(len(desk.cards()))])
    assert "room for" in desk.add_examples(desk.fresh_number(), [example()])[0]
    assert len(desk.cards()) == desk.MAX_CONCEPTS
    for i in range(30):
        desk.rename(number, f"name {i}")
    assert len(session["concepts.undo"]) == desk.MAX_UNDO
    large = desk.make_example(noise(0, 2000), "large")
    assert max(large.image.size) == desk.EXAMPLE_SIDE


def test_an_example_made_small_is_what_the_model_would_have_seen(model):
    picture = Image.fromarray(own_picture(5, 300, 700))
    small = desk.make_example(picture, "x").image
    np.testing.assert_array_equal(
        np.asarray(model.fit(small).image), np.asarray(model.fit(picture).image)
    )


def test_a_region_is_cut_out_exactly():
    picture = Image.fromarray(own_picture(6, 100, 200))
    region = desk.crop(picture, [0.25, 0.1, 0.5, 0.9])
    np.testing.assert_array_equal(np.asarray(region), np.asarray(picture)[10:90, 50:100])
    assert desk.crop(picture, [-1, -2, 3, 4]).size == picture.size


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.51, 0.9], [0.9, 0.1, 0.1, 0.9], ["x", 0, 1, 1],
                                 [0, 0, 1], None])
def test_a_box_that_is_none_is_one_sentence(session, box):
    source = _state.Picture(noise(1, 400), "digest", ())
    edit._take_region(desk.fresh_number(), source, box)
    assert len(session["concepts.problems"]) == 1
    assert len(desk.cards()) == len(READY)


# ---- names ---------------------------------------------------------------------------------------

NASTY = ["../../x", "..", "", "x" * 500, "a\x00b\u202ec\nd", "<script>alert(1)</script>", "CON",
         "/etc/passwd", "C:\\x", "~root", ".hidden", "日本語" * 60, "a/b", "-rf", "nul."]


@pytest.mark.parametrize("name", NASTY)
def test_names_are_one_short_visible_line(session, name):
    cleaned = desk.clean_name(name)
    assert len(cleaned) <= desk.MAX_NAME
    assert cleaned.isprintable()
    number = desk.fresh_number()
    desk.add_examples(number, [example()], name)
    assert desk.card(number).name


def test_two_concepts_never_share_a_name(session):
    for _ in range(3):
        desk.add_examples(desk.fresh_number(), [example(len(desk.cards()))], "rain")
    assert [card.name for card in desk.cards()][-3:] == ["rain", "rain (2)", "rain (3)"]


# ---- the shared folder ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    root = tmp_path / "inner" / "shared"
    root.mkdir(parents=True)
    monkeypatch.setenv(shared.VARIABLE, str(root))
    return root


@pytest.mark.parametrize("name", NASTY)
def test_no_name_leaves_the_shared_folder(folder, model, ready, name):
    concept = replace(ready[0], name=name)
    assert shared.save(concept) is None
    files = [path for path in folder.parent.parent.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].parent == folder
    assert not files[0].name.startswith((".", "-"))
    loaded = shared.saved()[files[0].name]
    np.testing.assert_array_equal(loaded.vector, concept.vector)


def test_the_same_name_twice_loses_nothing(folder, ready):
    twins = [replace(concept, name="fox") for concept in ready]
    for concept in (*twins, *twins):
        assert shared.save(concept) is None
    assert len(shared.saved()) == len(twins)
    vectors = {concept.vector.tobytes() for concept in shared.saved().values()}
    assert vectors == {concept.vector.tobytes() for concept in twins}


def test_strange_things_in_the_shared_folder_are_passed_over(folder, ready, tmp_path):
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(ready[0].to_bytes())
    (folder / "link.safetensors").symlink_to(outside)
    (folder / "broken.safetensors").write_bytes(b"nonsense")
    (folder / "folder.safetensors").mkdir()
    assert shared.saved() == {}
    assert shared.save(ready[0]) is None
    assert len(shared.saved()) == 1


def test_a_full_or_missing_folder_is_one_sentence(folder, ready, monkeypatch):
    monkeypatch.setattr(shared, "MAX_FILES", 1)
    assert shared.save(ready[0]) is None
    assert "full" in shared.save(ready[1])
    monkeypatch.setattr(shared, "write_atomically", lambda *_: (_ for _ in ()).throw(OSError))
    monkeypatch.setattr(shared, "MAX_FILES", 9)
    assert "could not be written" in shared.save(ready[1])
    monkeypatch.setenv(shared.VARIABLE, str(folder / "none"))
    assert shared.folder() is None
    assert "no shared folder" in shared.save(ready[0])


# ---- files ---------------------------------------------------------------------------------------


class Uploaded:
    file_id = "file"

    def __init__(self, content: bytes):
        self.content, self.size = content, len(content)

    def getvalue(self) -> bytes:
        return self.content


def test_saved_concepts_are_opened_again(session, model, ready):
    keep.take_file(model, Uploaded(concepts_to_bytes(ready[:2])))
    assert session["concepts.file_problem"] == ""
    names = [card.name for card in desk.cards()][-2:]
    assert names == [f"{concept.name} (2)" for concept in ready[:2]]
    np.testing.assert_array_equal(desk.cards()[-1].loaded.vector, ready[1].vector)
    assert session["concepts.first"] == desk.cards()[-2].id


def test_more_concepts_than_there_is_room_for_are_counted(session, model, ready):
    keep.take_file(model, Uploaded(concepts_to_bytes(ready * 3)))
    assert f"Only {desk.MAX_CONCEPTS - len(READY)} of the 9" in session["concepts.file_problem"]
    assert len(desk.cards()) == desk.MAX_CONCEPTS


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "no readable concept"), (b"nonsense" * 100, "no readable concept"),
     (b"x" * 2**21, "no readable concept"), (None, "built with model scenes")],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_sentence(session, model, ready, content, reason):
    other = replace(ready[0], weights_sha256="0" * 64)
    keep.take_file(model, Uploaded(other.to_bytes() if content is None else content))
    assert reason in session["concepts.file_problem"]
    assert len(desk.cards()) == len(READY)
    keep.take_file(model, Uploaded(ready[0].to_bytes()))
    assert session["concepts.file_problem"] == ""


def test_everything_can_be_forgotten(session, monkeypatch):
    monkeypatch.setattr(_state, "forget_examples", lambda: None)  # needs a running page
    desk.add_examples(desk.fresh_number(), [example()])
    session["picture"] = "kept"
    desk.start_over()
    assert list(session) == ["picture"]
    assert len(desk.cards()) == len(READY)


def test_a_concept_of_another_model_stays_on_the_desk_but_is_not_used(ready, model):
    other = replace(ready[0], name="foreign", weights_sha256="0" * 64)
    made = (*[desk.Card(i, row.name, desk.shipped_examples(row)) for i, row in enumerate(READY)],
            desk.Card(9, "foreign", loaded=other))  # fmt: skip
    at = opened(**{"concepts.cards": made, "concepts.undo": [], "concepts.fresh": 10})
    assert 9 not in at.multiselect(key="concepts.shown").value
    assert "foreign" not in at.multiselect(key="concepts.shown").options
    deck = next(data for data in thumbs(at) if data["label"] == "Concepts")
    assert [item["note"] for item in deck["items"]][3] == "made for another model"
