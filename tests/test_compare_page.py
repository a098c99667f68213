"""The page "Compare classes" with every method: what it shows, how it says it, and slow ones."""

import json
import time

import numpy as np
import pytest
from streamlit.runtime.scriptrunner_utils.exceptions import StopException
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core.benchmarks import to_patches
from cdam_core.maps import positive_share
from cdam_core.methods import METHODS
from cdam_core.pictures import PALETTES
from pages import (
    _compare_maps,
    _compare_words,
    _controls,
    _downloads,
    _gate,
    _methods_jobs,
    _panels,
    _state,
    _words,
)
from pages._samples import samples
from tests.conftest import SIZE, tiny_late_vit, tiny_vit
from tests.test_gate import one_slot
from tests.test_methods_page import cards
from tests.test_methods_page import opened as methods_page
from tests.test_pages import FRAME, component, opened, picture_of, viewer, widget

PAIR = ("zebra", "elephant")
SMALL = {"smooth_cdam": {"n": 2}, "integrated_cdam": {"steps": 2}, "smoothgrad": {"n": 2},
         "integrated_gradients": {"steps": 2}}  # fmt: skip
STARTS_FROM_PIXELS = [name for name, method in METHODS.items() if method.needs == "pixels"]
SLOW_ALONE = "token_ablation"  # no setting makes it small
explain = cdam.explain


def small_explain(model, x, target, method="cdam", **settings):
    return explain(model, x, target, method, **SMALL.get(method, {}) | settings)


@pytest.fixture(autouse=True)
def small_settings(monkeypatch):
    """Methods that average do so over two."""
    monkeypatch.setattr(cdam, "explain", small_explain)


@pytest.fixture(scope="module")
def model():
    return _state.get_model("scenes")


@pytest.fixture(scope="module")
def image():
    return cdam.open_image(next(iter(samples().values())).file)


def shown(method: str, *classes: str, **address):
    """The page with this method and these classes."""
    at = AppTest.from_file(str(FRAME), default_timeout=600)  # token ablation on a busy machine
    asked = {"method": method, "class": list(classes or PAIR)} | address
    for name, value in asked.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def expected(model, image, method: str, a="zebra", b="elephant") -> cdam.Explanation:
    """What the library answers to the page's question."""
    row = METHODS[method]
    targets = [a, b, cdam.Contrast(a, b)] if row.signed else [a, b] if row.class_specific else [a]
    return small_explain(model, image, targets, method)


def bar_titles(at) -> list[str]:
    found = (json.loads(element.proto.json) for element in at.get("bidi_component")
             if element.proto.component_name == "cdam_bars")
    return [data["title"] for data in found if "Strongest answers" not in data["title"]]


def unescaped(elements) -> str:
    return " ".join(element.value.replace("\\", "") for element in elements)


# ---- every method --------------------------------------------------------------------------------


def test_all_methods_can_be_chosen_variants_first_and_with_their_cost():
    options = opened().selectbox(key="method").options
    assert [option.split(" · ")[0] for option in options[:3]] == [
        "CDAM", "Smooth CDAM", "Integrated CDAM"]
    offered = {METHODS[name].label for name in _controls.OFFERED}
    assert {option.split(" · ")[0] for option in options} == offered
    assert len(offered) >= 14
    assert all(option.split(" · ")[1] for option in options)


@pytest.mark.parametrize("method", [
    pytest.param(name, marks=pytest.mark.slow) if name == SLOW_ALONE else name
    for name in _controls.OFFERED
])
def test_every_method_shows_its_own_scores_and_no_more_than_it_can_say(model, image, method):
    smaller = {"side": "224"} if method == SLOW_ALONE else {}  # fewer patches to take away
    model = _state.get_model("scenes@224") if smaller else model
    at, row = shown(method, **smaller), METHODS[method]
    data, wanted = viewer(at), expected(model, image, method)
    sums = [to_patches(each, model.grid).ravel() for each in wanted.scores]
    assert [one["name"] for one in data["shown"]] == list(wanted.labels)
    for one, scores in zip(data["shown"], sums, strict=True):
        np.testing.assert_allclose(one["values"], scores, atol=0.51 * 10.0 ** -data["decimals"],
                                   rtol=1e-3)
        assert len(set(one["values"])) > 5 or not scores.any()  # the digits tell patches apart
    badges = [panel["badge"] for panel in data["panels"]]
    bar = data["scale"]
    if row.class_specific:
        flat = ["zero everywhere" in panel["note"] for panel in data["panels"][1:]]
        assert flat == [not scores.any() for scores in sums]  # Grad-CAM may cut all there is
    if row.signed:
        assert at.title[0].value == "Why zebra rather than elephant?"
        assert badges == ["", "A", "B", "A − B"]
        assert bar["low"].startswith("speaks against  −")
        assert (bar["zero"], data["signed"]) == ("0", True)
        assert bar_titles(at) == ["Speaks most for", "Speaks most against"]
    else:
        assert (bar["low"], bar["zero"], data["signed"]) == ("0", "", False)
        assert float(bar["high"]) > 0
        assert "zero to" in bar["alt"]
        assert "without sign" in bar["note"]
        assert bar_titles(at) == ["Score of this patch"]
        assert at.selectbox(key="palette").disabled
    if not row.signed and row.class_specific:
        assert at.title[0].value == "What supports zebra, and what supports elephant?"
        assert badges == ["", "A", "B"]
    if not row.class_specific:
        assert at.title[0].value == "Where does the model look?"
        assert [panel["title"] for panel in data["panels"]] == ["What the model saw", row.label]
        assert data["panels"][1]["note"] == "the same for every class"
    if method not in _controls.VARIANTS:
        assert row.label in unescaped(at.caption)
        assert data["supported"] == data["opposed"] == []
    per = "pixel" if row.resolution == "pixel" else "patch"
    assert f"core per {per}," in bar["note"]
    assert at.query_params["method"] in (method, [method])


@pytest.mark.parametrize(
    "method", ["attention", "rollout", "partial_lrp", "grad_cam", "attention_grad_cam"])
def test_maps_without_signs_are_drawn_from_neutral_to_purple(method):
    at = shown(method)
    at.slider(key="opacity").set_value(100).run()
    data, purple = viewer(at), PALETTES["purple"].table().astype(float)
    index = int(np.argmax([max(one["values"]) for one in data["shown"]]))
    values = np.array(data["shown"][index]["values"])
    pixels = picture_of(data["panels"][1 + index]).astype(float)
    if not values.any():  # Grad-CAM may cut all there is: nothing is coloured then
        assert np.ptp(pixels, axis=2).max() <= 12
        return
    side = pixels.shape[0] // data["grid"][0]
    row, col = divmod(int(values.argmax()), data["grid"][1])
    middle = pixels[row * side + side // 2, col * side + side // 2]
    np.testing.assert_allclose(middle, purple[-1], atol=14)
    row, col = divmod(int(values.argmin()), data["grid"][1])
    faint = pixels[row * side + side // 2, col * side + side // 2]
    assert np.ptp(faint) < 90  # neither orange nor blue


@pytest.mark.parametrize("method", _controls.OFFERED)
def test_words_claim_no_sign_that_a_method_does_not_have(method):
    row, words = METHODS[method], _compare_words.how_to_read(method)
    assert ("negative score means" in words) == row.signed
    assert ("difference of the two maps" in words) == row.signed
    assert ("last block only" in words) == (method in _controls.VARIANTS)
    about = _compare_words.about(method)
    assert ("no map of A − B" in about or "no A − B" in about) == (not row.signed)
    assert "rather than" not in _compare_words.question(method, "a", "b") or row.signed


def test_words_say_where_the_support_lies(model):
    sample = next(sample for sample in samples().values() if len(set(sample.objects)) == 2)
    a, b = sample.objects[:2]
    at = shown("partial_lrp", a, b, sample=sample.id)
    words = unescaped(at.markdown)
    prepared = _state.prepare("scenes", _state._sample_picture(sample.id))
    scores = explain(model, cdam.open_image(sample.file), a, "partial_lrp").scores[0]
    share = _words.percent(positive_share(scores, prepared.regions[a]))
    assert f"**{share}** of the support for {a} lies on the {a}" in words
    assert "positive evidence" not in words


# ---- pixels --------------------------------------------------------------------------------------


def test_a_pixel_map_keeps_its_pixels_until_it_is_to_be_summed(model, image):
    at = shown("input_x_gradient")
    at.slider(key="opacity").set_value(100).run()
    fine = viewer(at)
    at.toggle(key="summed").set_value(True).run()
    coarse = viewer(at)
    assert "Score per pixel," in fine["scale"]["note"]
    assert "Score per patch, the sum of its pixels," in coarse["scale"]["note"]
    side = picture_of(fine["panels"][1]).shape[0] // model.grid[0]
    spread = []
    for data in (fine, coarse):
        pixels = picture_of(data["panels"][1]).astype(float)
        hue = pixels[..., 0] - pixels[..., 2]  # orange against blue; the picture below is grey
        patch = hue.reshape(model.grid[0], side, model.grid[1], side)
        spread.append(np.median(patch.std((1, 3))))
    assert spread[0] > 2 * spread[1]
    for before, after in zip(fine["shown"], coarse["shown"], strict=True):
        np.testing.assert_allclose(before["values"], after["values"],
                                   atol=10.0 ** -min(fine["decimals"], coarse["decimals"]))


def test_positive_evidence_of_pixels_is_counted_by_patches(model):
    sample = next(sample for sample in samples().values() if len(set(sample.objects)) == 2)
    a, b = sample.objects[:2]
    at = shown("input_x_gradient", a, b, sample=sample.id)
    prepared = _state.prepare("scenes", _state._sample_picture(sample.id))
    pixels = explain(model, cdam.open_image(sample.file), a, "input_x_gradient").scores[0]
    share = positive_share(to_patches(pixels, model.grid), prepared.regions[a])
    assert f"**{_words.percent(share)}** of the positive evidence for {a}" in unescaped(at.markdown)


# ---- slow methods --------------------------------------------------------------------------------


def test_a_redraw_never_computes_again(monkeypatch):
    at = shown("input_x_gradient")

    def again(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(cdam, "explain", again)
    before = viewer(at)
    at.slider(key="opacity").set_value(40)
    at.selectbox(key="palette").select("paper")
    at.toggle(key="smooth").set_value(True).run()
    after = viewer(at)
    assert after["shown"] == before["shown"]
    assert after["panels"][1]["src"] != before["panels"][1]["src"]
    at.number_input(key="patch.row").set_value(3).run()
    widget(at.selectbox, "a.").select(widget(at.selectbox, "b.").value).run()  # swaps the two
    assert [one["name"] for one in viewer(at)["shown"]][:2] == ["elephant", "zebra"]


def test_another_class_asks_for_its_own_map_only(monkeypatch, model):
    at, asked = shown("input_x_gradient"), []

    def counted(model, x, targets, method, **settings):
        asked.append(list(targets))
        return small_explain(model, x, targets, method, **settings)

    monkeypatch.setattr(cdam, "explain", counted)
    lion = model.class_names.index("lion")
    widget(at.multiselect, "more.").select(lion).run()
    assert asked == [[lion]]
    assert [one["name"] for one in viewer(at)["shown"]] == [
        "zebra", "elephant", "zebra − elephant", "lion"]


def test_maps_of_the_page_methods_are_taken_over(monkeypatch):
    at = methods_page(["input_x_gradient"], **{"class": ["zebra", "elephant"]})
    assert len(cards(at)) == 1

    def again(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(cdam, "explain", again)
    at.session_state["link"] = {"class": list(PAIR), "method": "input_x_gradient"}
    at.switch_page("compare.py").run()
    assert [panel["badge"] for panel in viewer(at)["panels"]] == ["", "A", "B", "A − B"]


def test_a_slow_method_can_be_cancelled_and_taken_up_again(monkeypatch):
    at = opened(**{"class": list(PAIR)})
    wait = _methods_jobs.Job.wait

    def interrupted(job):
        raise StopException  # what a click does at the next look

    monkeypatch.setattr(_methods_jobs.Job, "wait", interrupted)
    at.selectbox(key="method").select("smoothgrad").run()
    assert component(at, "maps") is None  # no map of another method under its name
    assert at.title[0].value == "Why zebra rather than elephant?"
    monkeypatch.setattr(_methods_jobs.Job, "wait", wait)
    at.button(key="stop.compare").click().run()
    assert not at.exception
    assert at.info[0].value.endswith("left out: SmoothGrad.")
    assert component(at, "maps") is None
    at.button(key="go-on.compare").click().run()
    assert len(viewer(at)["panels"]) == 4
    assert not at.info


def test_another_method_chosen_meanwhile_wins(monkeypatch, model, image):
    at = opened(**{"class": list(PAIR)})
    with monkeypatch.context() as patch:
        patch.setattr(_methods_jobs.Job, "wait", lambda _: (_ for _ in ()).throw(StopException))
        at.selectbox(key="method").select("smoothgrad").run()
    at.selectbox(key="method").select("rollout").run()
    assert viewer(at)["panels"][1]["title"] == "Attention rollout"
    wanted = explain(model, image, "zebra", "rollout").scores[0].ravel()
    np.testing.assert_allclose(viewer(at)["shown"][0]["values"], wanted, atol=1e-4)


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_a_method_that_cannot_answer_says_so_and_the_page_stays(monkeypatch, method):
    def failing(model, x, targets, method="cdam", **settings):
        if method != "cdam":
            raise cdam.BadTarget("unsupported", "This model has no such thing.")
        return explain(model, x, targets, method, **settings)

    monkeypatch.setattr(cdam, "explain", failing)
    at = shown(method, "hammer", "owl")  # a pair that no other test has left in the session
    assert not at.exception
    assert unescaped(at.warning) == "This model has no such thing."
    assert component(at, "maps") is None
    at.selectbox(key="method").select("cdam").run()
    assert len(viewer(at)["panels"]) == 4


def test_a_busy_server_is_said_in_place(monkeypatch):
    at = opened(**{"class": list(PAIR)})
    one_slot(monkeypatch, patience=0.1)
    with _gate.slot():
        at.selectbox(key="method").select("rollout").run()
        assert "Many people" in at.warning[0].value
    at.button(key="again.compare").click().run()
    assert len(viewer(at)["panels"]) == 2


def test_a_job_of_a_page_that_was_left_ends_by_itself(monkeypatch):
    monkeypatch.setattr(_methods_jobs, "UNWATCHED", 0.05)
    seen = []

    def work(on_step):
        for step in range(100):
            time.sleep(0.01)
            seen.append(step)
            on_step(step, 100)

    job = _methods_jobs.Job(_methods_jobs.Task("key", "label", work))
    assert job.finished.wait(5)
    assert len(seen) < 100


# ---- addresses and other pages -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["", "CDAM", "../cdam", "grad_cam ", "x" * 100_000])
def test_an_unknown_method_in_the_address_is_passed_over(method):
    at = shown(method)
    assert at.selectbox(key="method").value == "cdam"
    assert len(viewer(at)["panels"]) == 4


def test_concepts_keep_a_method_of_their_own():
    at = shown("grad_cam")
    at.switch_page("concepts.py").run()
    assert not at.exception
    assert at.selectbox(key="concepts.method").value == "cdam"
    at.switch_page("compare.py").run()
    assert at.selectbox(key="method").value == "grad_cam"


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "start"), [
    ("cdam", "cdam_scenes_zebra_elephant"),
    ("input_x_gradient", "cdam_scenes_input_x_gradient_zebra_elephant"),
    ("attention", "cdam_scenes_attention"),
])
def test_files_are_named_by_method_and_targets(model, image, method, start):
    explanation = expected(model, image, method)
    picture = _state._sample_picture(next(iter(samples())))
    prepared, look = _state.prepare("scenes", picture), _panels.Look()
    shown = _panels.Shown("compare", model, picture, prepared, explanation, explanation, look,
                          _panels.shared_scale(explanation))
    name = _words.file_name(_downloads.name_parts(shown), "png")
    assert name in (f"{start}.png", f"{start}_simulated.png")
    for file in _downloads.FILES[:3]:
        assert len(file.make(shown)) > 1000


# ---- linear methods ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_vit, tiny_late_vit])
@pytest.mark.parametrize("method", [m for m in STARTS_FROM_PIXELS if METHODS[m].signed])
def test_the_difference_of_two_maps_is_the_librarys_map_of_the_difference(method, make):
    model = cdam.wrap(make().float())
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    pixels = model.normalise(_panels.Image.fromarray(pixels))
    alone = small_explain(model, pixels, [0, 1, 2], method)
    wanted = small_explain(model, pixels, [0, 1, cdam.Contrast(0, 1), 2], method)
    found = _compare_maps.with_difference(alone)
    assert (found.labels, found.targets) == (wanted.labels, wanted.targets)
    spread = np.abs(wanted.scores).max()
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4 * spread)
    np.testing.assert_allclose(found.rest, wanted.rest, atol=1e-4 * spread)
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-4, atol=1e-5)
    assert found.seconds == alone.seconds


def test_every_signed_method_is_linear_enough_for_a_difference():
    """What ``with_difference`` relies on; a new signed method has to be looked at."""
    assert {m for m in STARTS_FROM_PIXELS if METHODS[m].signed} == {
        "input_x_gradient", "smoothgrad", "integrated_gradients", "token_ablation"}
