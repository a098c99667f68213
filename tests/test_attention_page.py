"""The page "Attention vs CDAM" without a browser: points, numbers, sets and files."""

import base64
import csv
import io
import json
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core import mechanism
from cdam_core.mechanism import Estimate, Openness
from pages import (
    _attention_heads,
    _attention_link,
    _attention_pairs,
    _attention_points,
    _attention_sets,
    _attention_words,
    _cache,
    _methods_jobs,
    _state,
)
from pages._attention_points import VIEWS
from pages._samples import samples
from tests.conftest import tiny_vit
from tests.test_pages import FRAME, own_picture, png, widget


@pytest.fixture(scope="module")
def model():
    return _state.get_model("scenes")


@pytest.fixture(scope="module")
def image():
    return cdam.open_image(next(iter(samples().values())).file)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """Sets of the first two samples are enough, and pictures of noise are not warned of."""
    monkeypatch.setattr(cdam.VisionModel, "is_unfamiliar", lambda *_: False)
    whole = _attention_sets.sample_set()
    few = _attention_sets.PictureSet(whole.id, whole.label, whole.titles[:2], whole.sources[:2])
    monkeypatch.setattr(_attention_sets, "sample_set", lambda: few)


def opened(**choices) -> AppTest:
    """The page after its first run, with widgets set beforehand."""
    at = AppTest.from_file(str(FRAME), default_timeout=180)
    at.run()
    for name, value in choices.items():
        at.session_state[f"attention.{name}"] = value
    at.switch_page("attention.py").run()
    assert not at.exception
    return at


def component(at: AppTest, name: str) -> dict:
    assert not at.exception
    return next(json.loads(element.proto.json) for element in at.get("bidi_component")
                if element.proto.component_name == f"cdam_{name}")


def unpacked(data: dict) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the points, as a browser reads them."""
    x0, x1, y0, y1 = data["range"]
    x, y = (np.frombuffer(base64.b64decode(data[name]), "<u2") / 65535 for name in "xy")
    return x0 + (x1 - x0) * x, y0 + (y1 - y0) * y


def words(at: AppTest) -> str:
    return "\n".join(md.value.replace("\\", "") for md in at.markdown)


def button(at: AppTest, label: str):
    return next(each for each in at.button if each.label == label)


# ---- points --------------------------------------------------------------------------------------


def test_it_opens_with_attention_against_cdam_of_the_strongest_answer(model, image):
    at = opened()
    data = component(at, "scatter")
    target = int(model.logits(model.encode_image(image)).argmax())
    attention = cdam.explain(model, image, target, "attention").scores.ravel()
    scores = cdam.explain(model, image, target).scores.ravel()
    x, y = unpacked(data)
    np.testing.assert_allclose(x, attention, atol=2e-5 * attention.max())
    np.testing.assert_allclose(y, scores, atol=4e-5 * np.abs(scores).max())
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(data["patch"]), "<u2"), np.arange(len(scores)))
    assert data["grid"] == list(model.grid)
    assert [panel["title"] for panel in data["panels"]] == ["What the model saw", "CDAM"]
    assert widget(at.selectbox, "attention.target.").value == target
    assert any("Simulated training data" in each.value for each in at.caption)


@pytest.mark.parametrize("name", ["relevance", "evidence", "paths", "integrated_cdam"])
def test_the_other_views_plot_what_they_say(model, image, name):
    at = opened(view=name, colouring="head")
    data = component(at, "scatter")
    target = int(model.logits(model.encode_image(image)).argmax())
    parts = mechanism.take_apart(model, model.encode_image(image), target)
    evidence = parts.evidence[0]
    expected = {
        "relevance": (parts.attention, parts.relevance[0]),
        "evidence": (parts.attention, evidence),
        "paths": [(parts.attention * each[0]).sum(0) for each in (parts.by_value, parts.by_key)],
        "integrated_cdam": (parts.mean_attention,
                            cdam.explain(model, image, target, "integrated_cdam").scores[0]),
    }[name]
    for found, wanted in zip(unpacked(data), expected, strict=True):
        np.testing.assert_allclose(found, wanted.ravel(), atol=4e-5 * np.ptp(wanted) + 1e-9)
    group = np.frombuffer(base64.b64decode(data["group"]), np.uint8)
    names = [each["name"] for each in data["groups"]]
    heads = np.array([int(label.removeprefix("Head ")) - 1 for label in names])[group]
    size = evidence[0].size
    strongest = np.abs(evidence).reshape(len(evidence), -1).argmax(0)
    wanted = np.repeat(np.arange(len(evidence)), size) if VIEWS[name].per_head else strongest
    np.testing.assert_array_equal(heads, wanted)


def test_another_class_is_asked_and_kept_for_the_other_pages(model, image):
    at = opened()
    widget(at.selectbox, "attention.target.").set_value(7).run()
    _, y = unpacked(component(at, "scatter"))
    scores = cdam.explain(model, image, 7).scores.ravel()
    np.testing.assert_allclose(y, scores, atol=4e-5 * np.abs(scores).max())
    assert at.session_state["classes"][1][0] == 7
    assert at.query_params["class"] in (model.class_names[7], [model.class_names[7]])


def test_a_class_in_the_address_is_taken_and_nonsense_is_not(model):
    for asked, expected in (("owl", "owl"), ("<script>" * 1000, None)):
        at = AppTest.from_file(str(FRAME), default_timeout=180)
        at.query_params["class"] = asked
        at.session_state["link"] = {"class": [asked]}
        at.run()
        at.session_state["link"] = {"class": [asked]}
        at.session_state["classes"] = ("", [])
        at.switch_page("attention.py").run()
        assert not at.exception
        chosen = model.class_names[widget(at.selectbox, "attention.target.").value]
        assert chosen == expected or (expected is None and chosen in model.class_names)


# ---- selection -----------------------------------------------------------------------------------


def test_a_box_by_numbers_selects_its_points_and_says_what_they_hold():
    at = opened()
    x, y = unpacked(component(at, "scatter"))
    bound = float(np.sort(y)[-6]) - 1e-4
    boxes = [each for each in at.number_input if (each.key or "").startswith("attention.box.")]
    boxes[2].set_value(bound)
    button(at, "Select these points").click().run()
    data = component(at, "scatter")
    assert data["selection"]["version"] == 1
    x0, x1, y0, y1 = data["selection"]["shape"]["box"]
    hit = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    assert hit.sum() == 6
    text = words(at)
    assert f"**6** of {len(x)} patches are selected." in text
    share = y[hit].sum() / y.clip(0).sum()
    assert f"**{100 * share:.0f} %** of the evidence for the answer" in text
    assert f"**{100 * x[hit].sum() / x.sum():.0f} %** of the attention" in text
    at.selectbox(key="attention.view").set_value("paths").run()
    assert component(at, "scatter")["selection"]["shape"] is None  # other axes, other selection


def test_a_patch_by_numbers_is_marked_everywhere(model, image):
    at = opened()
    next(each for each in at.number_input if each.label == "Row").set_value(12)
    next(each for each in at.number_input if each.label == "Column").set_value(10)
    button(at, "Find this patch").click().run()
    cols = model.grid[1]
    assert component(at, "scatter")["marked"] == [0, 11 * cols + 9]
    assert component(at, "heads")["selected"] == [11, 9]
    assert "Row 12, column 10" in words(at)
    target = int(model.logits(model.encode_image(image)).argmax())
    score = cdam.explain(model, image, target).scores[0, 11, 9]
    total = at.dataframe[1].value["= Evidence"].iloc[-1]
    assert float(total.replace("−", "-")) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("sent", [
    None, 7, "box", {}, {"kind": "box"}, {"kind": "box", "box": [1, 2]},
    {"kind": "box", "box": ["x", 1, 2, 3]}, {"kind": "box", "box": [1, 2, 3, float("nan")]},
    {"kind": "lasso", "polygon": [[1, 2]]}, {"kind": "lasso", "polygon": [[1, 2, 3]] * 5},
    {"kind": "lasso", "polygon": 3}, {"kind": "none"},
])  # fmt: skip
def test_what_is_no_shape_selects_nothing(sent):
    assert _attention_points.checked_shape(sent) is None


def test_a_huge_lasso_is_cut_short():
    shape = _attention_points.checked_shape({"kind": "lasso", "polygon": [[0, 1]] * 10_000})
    assert len(shape["polygon"]) == _attention_points.MAX_CORNERS


def test_inside_a_lasso_by_the_even_odd_rule():
    star = [[0, 3], [2, -3], [-3, 1], [3, 1], [-2, -3]]  # its middle is wound twice
    x, y = np.array([0.0, 0.0, 1.9, 5.0, -1.7]), np.array([0.0, 2.0, 0.7, 0.0, -2.3])
    np.testing.assert_array_equal(
        _attention_points.inside(star, x, y), [False, True, True, False, True])
    square = [[0, 0], [0, 2], [2, 2], [2, 0]]
    x, y = np.random.default_rng(0).uniform(-1, 3, (2, 500))
    np.testing.assert_array_equal(
        _attention_points.inside(square, x, y), (x > 0) & (x < 2) & (y > 0) & (y < 2))


def test_many_groups_keep_the_largest_in_colour():
    numbers = np.repeat(np.arange(20), np.arange(1, 21))
    group, groups = _attention_points._limited(numbers, [f"picture {i}" for i in range(20)])
    assert len(groups) == len(_attention_points.COLOURS) + 1
    assert groups[-1] == ("all others", _attention_points.GREY)
    assert len({colour for _, colour in groups}) == len(groups)
    named = [groups[each][0] for each in group]
    for number, name in zip(numbers, named, strict=True):
        assert name == (f"picture {number}" if number >= 8 else "all others")


# ---- sets ----------------------------------------------------------------------------------------


def test_samples_are_pooled_each_for_its_strongest_answer(model):
    at = opened(set="samples", colouring="class")
    data = component(at, "scatter")
    files = [each.file for each in samples().values()][:2]
    pool = mechanism.pool(model, [lambda f=f: cdam.open_image(f) for f in files])
    x, y = unpacked(data)
    for number, name in ((0, x), (1, y)):
        wanted = np.concatenate([
            (each.attention, each.scores["cdam"])[number] for each in pool.pictures])
        np.testing.assert_allclose(name, wanted, atol=4e-5 * np.ptp(wanted))
    picture = np.frombuffer(base64.b64decode(data["picture"]), "<u2")
    np.testing.assert_array_equal(np.bincount(picture), [len(p.index) for p in pool.pictures])
    assert [each["name"] for each in data["groups"]] == list(
        dict.fromkeys(each.label for each in pool.pictures))
    found = mechanism.agreement(*([p[k] for p in [
        (each.attention, each.scores["cdam"]) for each in pool.pictures]] for k in (0, 1)))
    shown = at.dataframe[0].value
    assert shown["Correlation with attention"][0] == mechanism.interval_text(found.pooled)
    assert shown["Mean of the pictures"][0] == mechanism.interval_text(found.mean)
    assert "of 2 pictures" in words(at)


def test_one_class_may_be_asked_of_all_pictures(model):
    at = opened(set="samples", ask="one", colouring="class")
    data = component(at, "scatter")
    target = widget(at.selectbox, "attention.target.").value
    assert [each["name"] for each in data["groups"]] == [model.class_names[target]]


def test_a_pool_can_be_cancelled_and_taken_up_again(monkeypatch):
    asked, real = [], mechanism.pool

    def slow(model, sources, *args, on_step, **settings):
        asked.append(len(sources))
        if len(asked) == 1:
            for step in range(1000):
                on_step(step, 1000)
                time.sleep(0.01)
        return real(model, sources, *args, on_step=on_step, **settings)

    monkeypatch.setattr(mechanism, "pool", slow)
    monkeypatch.setattr(_methods_jobs, "_answer", cancelling(_methods_jobs._answer))
    at = AppTest.from_file(str(FRAME), default_timeout=180)
    at.run()
    at.session_state["attention.set"] = "samples"
    at.switch_page("attention.py").run()
    assert any("Cancelled" in each.value for each in at.info)
    assert not [e for e in at.get("bidi_component") if "scatter" in e.proto.component_name]
    button(at, "Go on").click().run()
    assert component(at, "scatter")["count"] > 0
    assert len(asked) == 2


def cancelling(answer):
    """As if Cancel were pressed while the first job runs."""
    pressed = []

    def first_cancelled(task, bar, number, count):
        if not pressed:
            pressed.append(_methods_jobs._job_for(task))
            time.sleep(0.1)
            _methods_jobs._stop(frozenset([task.key]))
            _methods_jobs._offer_to_go_on("attention-pool", [task], bar)
            _methods_jobs.st.stop()
        answer(task, bar, number, count)

    return first_cancelled


def test_own_pictures_make_a_set_and_can_be_forgotten(model):
    at = opened(set="own")
    assert "attention.own" not in at.session_state
    contents = (png(own_picture(1)), b"no picture", png(own_picture(2)), png(own_picture(1)))
    files = [(f"file{i}.png", content, "image/png") for i, content in enumerate(contents)]
    uploader = next(each for each in at.file_uploader if "set" in each.label)
    uploader.set_value(files).run()
    assert not at.exception
    assert component(at, "scatter")["count"] == 2 * model.grid[0] * model.grid[1]
    assert component(at, "scatter")["titles"] == ["Picture 1", "Picture 2"]
    text = "\n".join(each.value.replace("\\", "") for each in at.warning)
    assert "File 2 was left out: This is not a readable image" in text
    assert "File 4 was left out: it is in the set already." in text
    assert ".png" not in text
    assert any(key[0] == "pool" for key in at.session_state["results"])
    button(at, "Forget this set").click().run()
    assert "attention.own" not in at.session_state
    assert not any(key[0] == "pool" for key in at.session_state["results"])
    assert not at.session_state["attention.views"]
    assert not at.exception


def test_forgetting_the_picture_forgets_its_points():
    at = AppTest.from_file(str(FRAME), default_timeout=180)
    at.run()
    at.switch_page("attention.py").run()
    at.file_uploader[0].upload("mine.png", png(own_picture(9)), "image/png").run()
    assert "attention.once" in at.session_state
    assert at.session_state["picture"].sample is None
    button(at, "Forget my picture").click()
    at.switch_page("methods.py").run()
    assert "attention.once" not in at.session_state
    assert "attention.maps" not in at.session_state


def test_own_pictures_are_kept_small_and_only_so_many(monkeypatch):
    kept = _attention_sets._kept(Image.fromarray(own_picture(3, 400, 900)))
    assert max(Image.open(io.BytesIO(kept.content)).size) == _attention_sets.KEPT_SIDE
    small = Image.fromarray(own_picture(3, 40, 50))
    again = cdam.open_image(_attention_sets._kept(small).content)
    assert np.array_equal(again, small)  # nothing lost

    class File:
        def __init__(self, seed):
            self.seed, self.file_id = seed, str(seed)

        def getvalue(self):
            return png(own_picture(self.seed, 32, 32))

    dropped = []
    monkeypatch.setattr(_attention_sets, "MAX_PICTURES", 2)
    monkeypatch.setattr(_attention_sets.st, "session_state", {})
    monkeypatch.setattr(_state, "drop_raw_file", lambda file: dropped.append(file.seed))
    problems = _attention_sets.take_uploads([File(i) for i in range(3)], lambda *_: None)
    assert len(_attention_sets.own_pictures()) == 2
    assert problems == ["File 3 was left out: a set holds at most 2 pictures."]
    assert dropped == [0, 1, 2]


@pytest.fixture
def allowed(tmp_path, monkeypatch):
    """A folder that the administrator allows, with what does not belong there."""
    root, outside = tmp_path / "scans", tmp_path / "secret"
    for folder in (root / "below", outside):
        folder.mkdir(parents=True)
    for name, place in (("a.png", root), ("b.PNG", root / "below"), ("hidden.png", outside)):
        (place / name).write_bytes(png(own_picture(len(name), 32, 32)))
    (root / "notes.txt").write_text("no picture")
    (root / "bad.png").write_bytes(b"no picture")
    (root / ".dot.png").write_bytes(b"")
    (root / "link.png").symlink_to(outside / "hidden.png")
    (root / "away").symlink_to(outside)
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "dir.png").mkdir()
    os.mkfifo(root / "pipe.png")
    monkeypatch.setenv("CDAM_FOLDERS", os.pathsep.join([str(root), "", str(tmp_path / "none")]))
    return root


def test_a_folder_gives_its_own_pictures_and_nothing_else(allowed):
    assert list(_attention_sets.folders()) == ["scans"]
    found = _attention_sets.folder_set("scans")
    assert found.titles == ("a.png", "bad.png", "below/b.PNG")
    assert found.sources[0]().size == (32, 32)
    for name in ("../secret/hidden.png", "link.png", "away/hidden.png", "loop.png", "dir.png",
                 "pipe.png", "gone.png", str(allowed.parent / "secret" / "hidden.png"), "a\0b"):
        with pytest.raises(cdam.BadImage, match="no longer in the folder"):
            _attention_sets.open_below(allowed, name)
    with pytest.raises(cdam.BadImage, match="no pictures"):
        _attention_sets.folder_set("../secret")


def test_a_large_folder_is_spread_evenly(allowed, monkeypatch):
    monkeypatch.setattr(_attention_sets, "MAX_PICTURES", 4)
    for number in range(9):
        (allowed / f"z{number}.png").write_bytes(b"")
    found = _attention_sets.folder_set("scans")
    assert found.titles == ("a.png", "z0.png", "z3.png", "z6.png")
    assert found.note == "4 of 12 pictures, evenly spread over the folder."
    before = found.id
    (allowed / "z0.png").write_bytes(b"other")
    assert _attention_sets.folder_set("scans").id != before


def test_folders_of_one_name_are_told_apart(tmp_path, monkeypatch):
    paths = [tmp_path / name / "ct" for name in "xy"]
    for path in paths:
        path.mkdir(parents=True)
    monkeypatch.setenv("CDAM_FOLDERS", os.pathsep.join(map(str, paths)))
    assert list(_attention_sets.folders()) == ["ct", "ct (2)"]


def test_a_folder_is_pooled_and_what_cannot_be_read_is_told(allowed, model):
    at = opened(set="folder:scans")
    data = component(at, "scatter")
    assert data["count"] == 2 * model.grid[0] * model.grid[1]
    assert "1 of 3 pictures could not be read: bad.png" in at.warning[0].value.replace("\\", "")


def test_no_folder_is_offered_without_the_administrator(monkeypatch):
    monkeypatch.delenv("CDAM_FOLDERS", raising=False)
    at = opened(set="folder:/etc")
    options = at.selectbox(key="attention.set").options
    assert options == ["This picture", "All samples", "A set of my own"]


# ---- words ---------------------------------------------------------------------------------------


def test_the_sentences_are_the_librarys_numbers(model, image):
    at = opened()
    target = int(model.logits(model.encode_image(image)).argmax())
    found = mechanism.patches_of(model, model.encode_image(image), target)
    quiet, loud = mechanism.quiet_patches(found.attention, found.scores["cdam"])
    text = words(at)
    if quiet:
        assert f"**{loud}** of the **{quiet}** patches with attention below 1 %" in text
    else:
        assert "No patch has attention below 1 % of its picture's maximum." in text
    pearson = np.corrcoef(found.attention, found.scores["cdam"])[0, 1]
    assert f"correlation **{pearson:.2f}**".replace("-", "−") in text
    shares = mechanism.attention_mass([found.attention], [found.scores["cdam"]])
    assert f"**{100 * shares[0].value:.0f} %** goes to evidence for {found.label}" in text
    table = at.dataframe[0].value
    assert list(table["Map"]) == ["CDAM", "Smooth CDAM", "Integrated CDAM"]


def test_the_bound_is_said_to_hold_where_it_does():
    attention = np.array([[1.0, 0.005, 0.005]])
    patches = mechanism.Patches(
        0, "zebra", 1, 2.0, (1, 3), np.arange(3), attention[0],
        {"cdam": np.array([2.0, 0.05, 0.5])}, attention, np.array([[2.0, 10.0, 100.0]]),
        np.zeros((1, 3)),
    )  # fmt: skip
    assert _attention_words.patches_that_could_score(patches) == 1
    found = _attention_words.numbers_of([patches], "cdam")
    sentence = _attention_words.sentences(found, [patches])[1]
    assert sentence.startswith("**1** of the **2** patches")
    assert sentence.endswith("that is too little for 1 of the 2.")


@pytest.mark.parametrize(("numbers", "verdict", "start"), [
    ((6.0, 5.8, -1.0, -1.0), "small", "For zebra, CDAM explains only a small correction of this"),
    ((6.0, 2.0, -1.0, -1.0), "part", "For zebra, CDAM explains a part of this model's decision"),
    ((6.0, -1.0, -1.0, -1.0), "large", "All of what this picture changes for zebra is decided"),
    ((2.0, 1.0, 2.0, 1.0), "none", "For zebra this picture changes nothing"),
])  # fmt: skip
def test_what_is_still_open_in_words(numbers, verdict, start):
    found, sentence = _attention_heads.open_words(Openness("zebra", *numbers))
    assert found == verdict
    assert sentence.startswith(start)


@pytest.fixture
def another_model(monkeypatch):
    """Put a small model in the place of the bundled one."""
    def put(model: cdam.VisionModel) -> None:
        monkeypatch.setattr(_state, "get_model", lambda _: model)
        _cache.shelf.clear()

    yield put
    _cache.shelf.clear()


def test_a_model_that_has_decided_before_is_warned_of(another_model):
    """An ordinary ViT in whose last block the patches contribute next to nothing."""
    module = tiny_vit()
    with torch.no_grad():
        module.blocks[-1].attn.proj.weight *= 1e-4
    another_model(cdam.wrap(module))
    at = opened()
    assert "CDAM explains only a small correction of this model: 0 %" in at.warning[0].value
    logit, hidden = (at.dataframe[-1].value[name][0]
                     for name in ("Logit", "with the patches hidden"))  # fmt: skip
    assert abs(float(logit.replace("−", "-")) - float(hidden.replace("−", "-"))) < 0.05
    assert component(at, "scatter")["grid"] == [4, 6]


def test_padding_is_no_point_and_is_said_to_be_none(another_model):
    """The square sample on a 4 x 6 grid: a column at both ends is padding."""
    another_model(cdam.wrap(tiny_vit()))
    at = opened()
    data = component(at, "scatter")
    patches = np.frombuffer(base64.b64decode(data["patch"]), "<u2")
    assert set((patches % 6).tolist()) == {1, 2, 3, 4}
    button(at, "Find this patch").click().run()
    assert "Row 1, column 1 is padding around the picture and is not counted." in words(at)


def test_the_bundled_model_is_not_warned_of():
    at = opened()
    assert not at.warning
    assert "is decided in the last block, which is what CDAM explains" in words(at)


def test_heads_multiply_out_to_cdam(model, image):
    at = opened()
    data = component(at, "heads")
    target = int(model.logits(model.encode_image(image)).argmax())
    scores = cdam.explain(model, image, target).scores.ravel()
    a, r = np.array(data["attention"]), np.array(data["relevance"])
    np.testing.assert_allclose((a * r).sum(0), scores, atol=0.03 * np.abs(scores).max())
    np.testing.assert_allclose(data["total"], scores, atol=1e-3 * np.abs(scores).max() + 1e-3)
    assert [card["title"] for card in data["cards"]][-1] == "All heads"
    for path in ("value", "key"):
        at.session_state["attention.path"] = path
        at.run()
        e = cdam.explain(model, image, target, path=path)
        np.testing.assert_allclose(component(at, "heads")["total"], e.scores.ravel(), atol=2e-3)


# ---- blocks of another kind ----------------------------------------------------------------------


@pytest.mark.parametrize(("attention", "told"), [
    (True, "cannot be split into heads and paths"), (False, "nothing to plot CDAM against"),
])  # fmt: skip
def test_without_the_closed_form_the_page_says_what_it_shows(monkeypatch, attention, told):
    real = mechanism._parts
    monkeypatch.setattr(mechanism, "_parts", lambda *args: (
        real(*args)[0] if attention else None, None, None))  # fmt: skip
    at = opened()
    text = "\n".join(each.value for each in at.info)
    assert told in text
    shown = [e.proto.component_name for e in at.get("bidi_component")]
    assert ("cdam_scatter" in shown) == attention
    assert "cdam_heads" not in shown
    if attention:
        assert not any("Per head" in option
                       for option in at.selectbox(key="attention.view").options)  # fmt: skip


# ---- pairs and files -----------------------------------------------------------------------------


def test_methods_in_pairs_with_correlations(model, image):
    at = opened(pairs=["cdam", "attention", "partial_lrp"])
    assert len(at.dataframe) == 3
    button(at, "Compare them on this picture").click().run()
    assert not at.exception
    table = at.dataframe[3].value
    assert list(table["Pair"]) == ["CDAM – Attention map", "CDAM – Partial LRP",
                                   "Attention map – Partial LRP"]  # fmt: skip
    target = int(model.logits(model.encode_image(image)).argmax())
    one, two = (cdam.explain(model, image, target, name).scores[0]
                for name in ("cdam", "attention"))  # fmt: skip
    expected = np.corrcoef(one.ravel(), two.ravel())[0, 1]
    assert table["All patches"][0] == f"{expected:.2f}".replace("-", "−")
    assert table["Paper's authors"][0] == "0.12"
    assert at.get("image") or at.get("imgs") or at.image


def test_maps_of_a_cancelled_comparison_are_not_computed_again(monkeypatch, model):
    monkeypatch.setattr(_attention_pairs.st, "session_state", {})
    calls = []
    monkeypatch.setattr(_attention_pairs, "_flat_map", lambda m, asked, method, step:
                        calls.append(asked.number) or np.zeros(3))  # fmt: skip
    asked = [_attention_pairs.Asked(number, None, 0) for number in range(4)]

    def cancel(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _attention_pairs.task("scenes", "set", asked, "cdam").work(cancel)
    assert calls == [0, 1]
    found = _attention_pairs.task("scenes", "set", asked, "cdam").work(lambda *_: None)
    assert calls == [0, 1, 2, 3]
    assert len(found) == 4


def test_pictures_that_one_method_could_not_read_are_left_out_for_all():
    one, two = np.ones(2), np.zeros(2)
    maps = _attention_pairs.complete({"cdam": [one, one, None], "attention": [two, None, two]})
    assert [len(each) for each in maps.values()] == [1, 1]


def test_the_files_hold_the_same_numbers(model, image):
    encoding = model.encode_image(image)
    found = mechanism.patches_of(model, encoding, 1, ("cdam", "integrated_cdam"))
    text = _attention_points.csv_of([found], ['=cmd|"x",'], '{"a": 1}')
    head, *lines = text.splitlines()
    assert head == '# {"a": 1}'
    rows = list(csv.DictReader(lines))
    assert len(rows) == len(found.index)
    assert rows[0]["picture"] == "'=cmd|\"x\","
    heads = len(found.head_attention)
    for row in rows[::37]:
        parts = [float(row[f"head_{h + 1}_attention"]) * (
            float(row[f"head_{h + 1}_value_relevance"]) + float(row[f"head_{h + 1}_key_relevance"])
        ) for h in range(heads)]  # fmt: skip
        assert sum(parts) == pytest.approx(float(row["cdam"]), abs=1e-4)
    place = found.grid[1] * int(rows[40]["row"]) + int(rows[40]["col"])
    assert float(rows[40]["integrated_cdam"]) == float(found.scores["integrated_cdam"][place])


def test_numbers_as_json_have_no_nan(model):
    nothing = Estimate(0.5, float("nan"), float("nan"))
    found = _attention_words.as_json([_attention_words.Numbers(
        "cdam", nothing, None, 3, 0, (nothing,) * 3)])  # fmt: skip
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["maps"][0]["correlation"] == {"value": 0.5, "low": None, "high": None}


def test_downloads_are_offered():
    at = opened()
    names = [each.proto.label for each in at.get("download_button")]
    assert names == ["Points (CSV)", "Numbers (JSON)", "Report (PDF)",
                     "All of it, to be checked (ZIP)"]  # fmt: skip


def test_a_mark_from_elsewhere_is_forgotten(monkeypatch):
    monkeypatch.setattr(_attention_link.st, "session_state", {"attention.marked": ("other", 0, 3)})
    assert _attention_link.current_mark("this", []) is None
    monkeypatch.setattr(_attention_link.st, "session_state", {
        "attention-scatter": {"patch": ["x", None]}, "attention.plotted": ("a", "b")})  # fmt: skip
    _attention_link.on_patch()
    assert "attention.marked" not in _attention_link.st.session_state
