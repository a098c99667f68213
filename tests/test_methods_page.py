"""The page "Methods" without a browser: its maps, measures, tests and files against the library."""

import csv
import io
import json
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from streamlit.runtime.scriptrunner_utils.exceptions import StopException
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core import sanity
from cdam_core.benchmarks import compactness, fidelity, to_patches
from cdam_core.maps import symmetric_scale
from cdam_core.methods import METHODS
from pages import (
    _controls,
    _gate,
    _methods_cards,
    _methods_files,
    _methods_jobs,
    _methods_sanity,
    _methods_tasks,
    _methods_trust,
    _state,
)
from pages._samples import samples
from pages._words import signed
from tests.test_gate import one_slot
from tests.test_pages import FRAME, own_picture, png, upload, widget

QUICK = ("cdam", "attention", "partial_lrp", "grad_cam")
MANY = "x" * 100_000


@pytest.fixture(scope="module")
def model():
    return _state.get_model("scenes")


@pytest.fixture(scope="module")
def image():
    return cdam.open_image(next(iter(samples().values())).file)


@pytest.fixture
def small_tests(monkeypatch):
    """The tests of trust with few pictures each."""
    for name, value in (("STEPS", 2), ("RANKINGS", 2), ("BOXES", 3), ("SIZES", (2, 4))):
        monkeypatch.setattr(_methods_tasks, name, value)


def opened(methods=QUICK, **address) -> AppTest:
    """The page after its first run, with values in the address."""
    at = AppTest.from_file(str(FRAME), default_timeout=120)
    at.run()
    at.query_params.clear()
    for name, value in ({"method": list(methods)} | address).items():
        at.query_params[name] = value
    at.session_state["link"] = {"class": address.get("class", [])}
    at.switch_page("methods.py").run()
    assert not at.exception
    return at


def cards(at: AppTest) -> list[dict]:
    """Data of the cards, in the order of the page."""
    assert not at.exception
    return [json.loads(element.proto.json) for element in at.get("bidi_component")
            if element.proto.component_name == "cdam_card"]


def titles(at: AppTest) -> list[str]:
    """Labels of the methods whose cards have maps, in the order of the page."""
    return [md.value.replace("\\", "").split("**")[1]
            for md in at.markdown if ":small[" in md.value]


def assert_shows(card: dict, explanation: cdam.Explanation) -> None:
    """The numbers of a card are the library's."""
    assert [panel["title"] for panel in card["panels"]] == list(explanation.labels)
    for values, scores in zip(card["values"], explanation.scores, strict=True):
        expected = to_patches(scores, explanation.grid).ravel()
        np.testing.assert_allclose(values, expected, atol=0.51 * 10.0 ** -card["decimals"])


def label(method: str) -> str:
    return METHODS[method].label


# ---- the grid ------------------------------------------------------------------------------------


def test_every_method_but_the_slow_ones_is_shown_for_the_two_strongest_classes(model, image):
    at = opened(methods=())
    wanted = [m for m in _controls.OFFERED if METHODS[m].cost != "minutes"]
    wanted.remove("transformer_attribution")
    assert sorted(titles(at)) == sorted(map(label, wanted))
    assert set(at.session_state["methods"]) == set(wanted)
    strongest = np.argsort(-model.logits(model.encode_image(image)).numpy())[:2].tolist()
    for card, title in zip(cards(at), titles(at), strict=True):
        method = next(m for m in wanted if label(m) == title)
        assert_shows(card, cdam.explain(model, image, strongest, method))


def test_every_method_tells_its_cost_and_kind():
    at = opened()
    pills = widget(at.get("button_group"), "methods")
    for method in map(METHODS.get, _controls.OFFERED):
        assert any(option.startswith(f"{method.label} · ") for option in pills.options)
    words = {md.value.split("**")[1]: md.value for md in at.markdown if ":small[" in md.value}
    assert words["CDAM"].endswith("signed, per patch]")
    assert words["Attention map"].endswith("support only, per patch]")


def test_cost_is_measured_once_it_can_be(image, model):
    explanation = cdam.explain(model, image, 0)
    for seconds, words in ((0.1, "instant"), (3.2, "about 4 s"), (100, "about 2 min")):
        _methods_cards.note_cost("a model", replace(explanation, seconds=seconds))
        assert _methods_cards.cost_words("a model", "cdam") == words
    assert _methods_cards.cost_words("another", "token_ablation") == "minutes"


def test_classes_can_be_changed(model, image):
    at = opened(methods=["cdam"])
    widget(at.multiselect, "classes.").set_value([3, 7, 11]).run()
    assert_shows(cards(at)[0], cdam.explain(model, image, [3, 7, 11]))
    widget(at.multiselect, "classes.").set_value([5]).run()
    assert_shows(cards(at)[0], cdam.explain(model, image, [5]))
    assert any("Choose two classes" in caption.value for caption in at.caption)
    widget(at.multiselect, "classes.").set_value([]).run()
    assert not cards(at)
    assert "at least one class" in at.info[0].value


def test_nothing_is_computed_twice(monkeypatch):
    at = opened()

    def explain(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(_methods_tasks.cdam, "explain", explain)
    at.selectbox(key="sort").select("compactness").run()
    at.selectbox(key="palette").select("paper").run()
    assert len(cards(at)) == len(QUICK)


def test_numbers_under_the_maps_are_the_librarys(model, image):
    at = opened(methods=["cdam", "attention"], **{"class": ["zebra", "elephant"]})
    scores = cdam.explain(model, image, ["zebra", "elephant"]).scores
    notes = [panel["note"] for panel in cards(at)[0]["panels"]]
    assert notes == [f"compactness {compactness(each):.2f}" for each in scores]
    words = " ".join(caption.value for caption in at.caption)
    r = np.corrcoef(scores[0].ravel(), scores[1].ravel())[0, 1]
    assert f"Correlation of zebra with elephant **{signed(r)}**" in words
    assert "By construction the same map for every class" in words


@pytest.mark.parametrize("sharing", _methods_cards.SCALES)
def test_scales_are_printed_and_shared_as_chosen(model, image, sharing):
    at = opened(methods=["cdam", "integrated_cdam", "attention"],
                **{"class": ["zebra", "elephant"]})
    at.selectbox(key="sharing").select(sharing).run()
    maps = {m: cdam.explain(model, image, ["zebra", "elephant"], m).scores
            for m in ("cdam", "integrated_cdam", "attention")}
    for card, method in zip(cards(at), maps, strict=True):
        for index, panel in enumerate(card["panels"]):
            shared = {
                "method": [maps[method]],
                "map": [maps[method][index]],
                "column": [maps["cdam"][index], maps["integrated_cdam"][index]]
                if method != "attention" else [maps[method]],
            }[sharing]
            end = symmetric_scale(shared, 0.99)
            low, high = panel["scale"]["low"], panel["scale"]["high"]
            assert float(high) == pytest.approx(end, rel=0.06)
            assert low == ("0" if method == "attention" else f"−{high[1:]}")


def test_pixel_maps_can_be_summed_to_patches(model, image):
    at = opened(methods=["input_x_gradient"], **{"class": ["zebra"]})
    before = cards(at)[0]
    scores = cdam.explain(model, image, "zebra", "input_x_gradient").scores[0]
    assert before["panels"][0]["note"] == f"compactness {compactness(scores):.2f}"
    at.toggle(key="summed").set_value(True).run()
    after, patches = cards(at)[0], to_patches(scores, model.grid)
    assert after["panels"][0]["note"] == f"compactness {compactness(patches):.2f}"
    assert after["values"] == before["values"]
    assert any("signed, pixels summed to patches" in md.value for md in at.markdown)
    assert after["panels"][0]["src"] != before["panels"][0]["src"]


def test_cards_are_sorted_best_first(model, image):
    at = opened(**{"class": ["zebra", "elephant"]})
    numbers = {m: np.mean([compactness(s) for s in
                           cdam.explain(model, image, ["zebra", "elephant"], m).scores])
               for m in QUICK}
    at.selectbox(key="sort").select("compactness").run()
    assert titles(at) == [label(m) for m in sorted(QUICK, key=lambda m: -numbers[m])]
    at.selectbox(key="sort").select("").run()
    assert titles(at)[0] == "CDAM"


def test_unknown_numbers_come_last_whatever_the_order():
    values = {"a": {"seconds": math.nan}, "b": {"seconds": 2.0}, "c": {"seconds": 1.0}}
    sort = _methods_cards.sorted_methods
    assert sort("abc", values, "seconds") == ["c", "b", "a"]
    assert sort("abc", values, "") == ["a", "b", "c"]


def test_padding_is_not_counted(model):
    at = opened()
    pixels = own_picture(5, 100, 300)
    upload(at, png(pixels))
    if at.toggle and any((t.key or "").startswith("anyway.") for t in at.toggle):
        widget(at.toggle, "anyway.").set_value(True).run()
    image = cdam.open_image(png(pixels))
    asked = list(widget(at.multiselect, "classes.").value)
    explanation = cdam.explain(model, image, asked)
    assert not explanation.content.all()
    card = cards(at)[0]
    assert_shows(card, explanation)
    expected = compactness(explanation.scores[0][explanation.content])
    assert card["panels"][0]["note"] == f"compactness {expected:.2f}"
    assert len(at.session_state["results"]) >= len(QUICK)
    next(button for button in at.button if button.label == "Forget my picture").click().run()
    digests = {key[2] for key in at.session_state["results"]}
    assert digests == {at.session_state["picture"].digest}


# ---- cancel and failures -------------------------------------------------------------------------


def test_cancel_keeps_what_is_done_and_can_go_on(monkeypatch):
    wait = _methods_jobs.Job.wait

    def interrupted(job):
        if job.key[-1] == "partial_lrp":
            raise StopException  # what a click does at the next look
        return wait(job)

    monkeypatch.setattr(_methods_jobs.Job, "wait", interrupted)
    at = opened()
    assert titles(at) == ["CDAM", "Attention map"]
    monkeypatch.setattr(_methods_jobs.Job, "wait", wait)
    at.button(key="stop.methods").click().run()
    assert titles(at) == ["CDAM", "Attention map"]
    assert at.info[0].value.endswith("left out: Partial LRP, Grad-CAM.")
    at.button(key="go-on.methods").click().run()
    assert titles(at) == [label(m) for m in QUICK]
    assert not at.info


def test_an_interrupted_run_goes_on_with_the_same_job(monkeypatch):
    calls, wait, explain = [], _methods_jobs.Job.wait, cdam.explain

    def counted(*args, **settings):
        if "on_step" in settings:  # not what the page computes for itself
            calls.append(args[3])
            time.sleep(0.3)
        return explain(*args, **settings)

    def interrupted(job):
        raise StopException

    monkeypatch.setattr(_methods_tasks.cdam, "explain", counted)
    monkeypatch.setattr(_methods_jobs.Job, "wait", interrupted)
    at = opened(methods=["cdam"])
    assert not cards(at)
    monkeypatch.setattr(_methods_jobs.Job, "wait", wait)
    at.run()
    assert len(cards(at)) == 1
    assert calls == ["cdam"]


def test_a_method_that_fails_leaves_the_others(monkeypatch):
    explain = cdam.explain

    def failing(model, x, targets, method, **settings):
        if method == "attention":
            raise cdam.BadTarget("unsupported", "This model has no such thing.")
        if method == "grad_cam":
            raise RuntimeError("Mrs Jones")
        return explain(model, x, targets, method, **settings)

    monkeypatch.setattr(_methods_tasks.cdam, "explain", failing)
    at = opened()
    assert titles(at) == ["CDAM", "Partial LRP"]
    warnings = [warning.value.replace("\\", "") for warning in at.warning]
    assert warnings[0] == "This model has no such thing."
    assert "error id" in warnings[1]
    assert "Jones" not in str(warnings)


def test_a_busy_server_is_said_in_place_and_the_page_stays(monkeypatch):
    at = opened(methods=["cdam"])
    one_slot(monkeypatch, patience=0.1)
    with _gate.slot():
        widget(at.multiselect, "classes.").set_value([3]).run()
        assert "Many people" in at.warning[0].value
        assert not cards(at)
    at.button(key="again.methods").click().run()
    assert len(cards(at)) == 1


def work_in_steps(seen, count=200):
    def work(on_step):
        for step in range(count):
            time.sleep(0.005)
            seen.append(step)
            on_step(step + 1, count)
        return "done"
    return work


def test_a_job_tells_its_progress_and_lets_others_through_the_gate(monkeypatch):
    one_slot(monkeypatch)
    seen = []
    job = _methods_jobs.Job(_methods_jobs.Task("key", "label", work_in_steps(seen, 40)))
    while not seen:
        time.sleep(0.001)
    with _gate.slot():
        at_work = len(seen)
        time.sleep(0.05)
        assert len(seen) <= at_work + 1  # it waits for its turn
    while not job.wait():
        pass
    assert (job.result, job.done, job.total) == ("done", 40, 40)
    with _gate.slot():
        pass


def test_a_job_at_the_gate_waits_and_can_be_cancelled(monkeypatch):
    one_slot(monkeypatch)
    jobs = []
    with _gate.slot():
        jobs = [_methods_jobs.Job(_methods_jobs.Task(name, name, lambda _: "done"))
                for name in ("stays", "goes")]
        time.sleep(0.1)
        assert [job.position for job in jobs] == [1, 2]
        jobs[1].stop()
        assert jobs[1].finished.wait(5)
    assert jobs[0].finished.wait(5)
    assert jobs[0].result == "done"
    assert isinstance(jobs[1].error, _methods_jobs.GivenUp)


@pytest.mark.parametrize("how", ["stopped", "unwatched"])
def test_work_that_nobody_waits_for_ends_and_gives_the_gate_back(monkeypatch, how):
    one_slot(monkeypatch)
    monkeypatch.setattr(_methods_jobs, "UNWATCHED", 0.05 if how == "unwatched" else 60)
    seen = []
    job = _methods_jobs.Job(_methods_jobs.Task("key", "label", work_in_steps(seen)))
    if how == "stopped":
        job.stop()
    assert job.finished.wait(5)
    assert isinstance(job.error, _methods_jobs.GivenUp)
    assert len(seen) < 200
    with _gate.slot():
        pass


def test_a_new_job_waits_for_the_stopped_one_without_impatience(monkeypatch):
    one_slot(monkeypatch, patience=0.01)
    started, free = threading.Event(), threading.Event()

    def stubborn(on_step):
        started.set()
        free.wait(5)
        on_step(1, 2)

    old = _methods_jobs.Job(_methods_jobs.Task("old", "old", stubborn))
    assert started.wait(5)
    old.stop()
    new = _methods_jobs.Job(_methods_jobs.Task("new", "new", lambda _: "done"), after=old)
    time.sleep(0.05)
    free.set()
    assert new.finished.wait(5)
    assert new.result == "done"


# ---- bad state -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        {"method": ["__import__", "<script>"], "class": ["<b>", "-1", MANY]},
        {"method": ["pooled_cdam", "cdam"]},
        {"method": [MANY, "cdam", "cdam"], "class": ["1000000000"], "sample": "../x"},
    ],
    ids=["hostile", "not_offered", "long"],
)
def test_values_that_do_not_fit_are_passed_over(address):
    at = opened(**address)
    known = [m for m in dict.fromkeys(address["method"]) if m in _controls.OFFERED]
    assert len(cards(at)) == (len(known) or 10)


def test_a_class_that_is_no_longer_shown_is_not_judged():
    at = opened(methods=["cdam"], **{"class": ["zebra", "elephant"]})
    at.selectbox(key="judged").select(0).run()
    widget(at.multiselect, "classes.").set_value([5, 6]).run()
    assert at.selectbox(key="judged").value == 5


def test_no_method_chosen_is_a_hint():
    at = opened(methods=["cdam"])
    at.session_state["methods"] = []
    at.run()
    assert not at.exception
    assert "at least one class and one method" in at.info[0].value


# ---- put to the test -----------------------------------------------------------------------------


def test_all_shown_maps_are_measured_on_demand(model, image, small_tests):
    at = opened(methods=["cdam", "attention"], **{"class": ["zebra", "elephant"]})
    assert not at.dataframe
    at.button(key="measure").click().run()
    assert not at.exception
    table = at.dataframe[0].value.set_index("Method")
    pixels = model.preprocess(image)
    for method in ("cdam", "attention"):
        scores = cdam.explain(model, image, "zebra", method).scores[0]
        expected = fidelity(model, pixels, scores, "zebra", 2)
        assert table["Fidelity (LIF − MIF) ↑"][label(method)] == pytest.approx(
            expected.area, abs=0.05)
    assert any("One picture and one way" in caption.value for caption in at.caption)
    assert sum("Fidelity **" in caption.value for caption in at.caption) == 2
    at.selectbox(key="sort").select("fidelity").run()
    order = table["Fidelity (LIF − MIF) ↑"].sort_values(ascending=False).index.tolist()
    assert titles(at) == order


def judged(area, mean=0.0, sd=1.0, boxes=1.0):
    curves = _methods_trust.Fidelity(
        np.array([0, 1.0]), np.array([1.0, 0]), np.array([1.0, 0]), -area / 2, area / 2, area,
        type("Protocol", (), {"unit": "patch"})(),
    )
    band = _methods_trust.Band(np.array([0, 1.0]), np.array([1.0, 0]), np.array([0.1, 0.1]),
                               mean, sd, 10)
    sensitivity = _methods_trust.BoxSensitivity(np.array([1, 2]), np.array([0.5, 0.5]), boxes, 5,
                                                None)
    return _methods_trust.Judged(curves, band, sensitivity)


def test_the_ranking_says_who_is_no_better_than_chance():
    found = {"attention": judged(1.0), "cdam": judged(20.0), "rollout": judged(9.0, boxes=3.0)}
    words = _methods_trust.ranking_words(found, "zebra")
    assert words.startswith("**CDAM** foretells best what blurring does to the logit of zebra, "
                            "followed by Attention rollout.")
    assert "Not clearly better than a random order: Attention map." in words
    assert "**Attention rollout** knows best" in words
    assert "one end only" not in words


def test_the_ranking_says_who_is_right_at_one_end_only():
    one = judged(20.0, mean=11.0)  # areas of -10 and +10, random ones of 11 ± 1
    assert one.good_ends() == ["mif"]
    words = _methods_trust.ranking_words({"cdam": one}, "zebra")
    assert "CDAM does so at one end only: most important first." in words
    assert _methods_trust.table({"cdam": one})[0]["Better than chance"] == (
        "most important first only")


def test_one_chart_holds_every_curve_and_the_band():
    found = {method: judged(float(i)) for i, method in enumerate(METHODS)}
    figure = _methods_trust.chart(found, "mif", "<b>zebra</b>")
    names = [trace.name for trace in figure.data]
    assert names[0] == "Random order"
    assert names.count("CDAM") == 2
    assert len(names) == 1 + 2 * len(METHODS)
    looks = {(t.line.color, t.line.dash) for t in figure.data[1:]}
    assert len(looks) == len(METHODS)
    assert "<b>zebra" not in figure.layout.yaxis.title.text


def test_the_sanity_check_compares_with_models_that_know_less(model, image):
    at = opened(methods=["cdam", "attention"], **{"class": ["zebra", "elephant"]})
    at.selectbox(key="sanity.method").select("attention")
    at.button(key="sanity.every").click().run()
    assert not at.exception
    panel = cards(at)[-1]["panels"]
    assert [each["title"] for each in panel] == [
        "As trained", *(row.label for row in sanity.RANDOMISATIONS.values())]
    original = cdam.explain(model, image, "zebra", "attention").scores[0]
    for each, how in zip(panel[1:], sanity.RANDOMISATIONS, strict=True):
        other = cdam.explain(sanity.randomise(model, how), image, "zebra", "attention").scores[0]
        r = sanity.correlation(original, other)
        assert each["note"] == f"correlation {signed(r)}"
    words = " ".join(md.value for md in at.markdown)
    assert "Classes swapped: the same map (+1.00)." in words
    assert "it cannot tell why the model gave *this* answer" in words
    table = at.dataframe[0].value.set_index("Method")
    assert table["Classes swapped"]["Attention map"] == pytest.approx(1)
    assert table["Classes swapped"]["CDAM"] < 0.9


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.0, "the same map"), (0.7, "much the same map"), (0.3, "a partly similar map"),
     (0.1, "another map"), (-0.96, "the same map with opposite signs"), (math.nan, "a flat map")],
)
def test_likeness_in_words(value, words):
    assert _methods_sanity.likeness(value) == words


def test_a_map_that_never_changes_is_said_not_to_explain_the_model():
    known = {"last_block": 0.99, "all_blocks": 0.9, "permuted_head": 1.0}
    assert "lies in the picture, not in what the model learned" in _methods_sanity.verdict(
        "cdam", known)
    assert "depends on what the model learned" in _methods_sanity.verdict(
        "cdam", known | {"all_blocks": 0.1})


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(model, image):
    names = ("cdam", "attention", "input_x_gradient")
    made = [cdam.explain(model, image, ["zebra", "elephant"], name) for name in names]
    return {each.method: _methods_cards.row_of(each, False) for each in made}


def test_the_page_offers_three_files():
    at = opened(methods=["cdam"])
    names = [element.proto.label for element in at.get("download_button")]
    assert names == ["All maps (PNG)", "Measures (CSV)", "Scores (NPZ)", "Report (PDF)",
                     "All of it, to be checked (ZIP)"]  # fmt: skip


def test_the_file_of_measures_holds_what_is_known(rows, model):
    text = _methods_files.measures(rows, {}, {"cdam": {"all_blocks": 0.1}}, 0)
    head, *lines = text.splitlines()
    assert json.loads(head.removeprefix("# "))["model"] == "scenes"
    table = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert [(line["method"], line["target"]) for line in table] == [
        (name, target) for name in rows for target in ("zebra", "elephant")]
    first = table[0]
    assert float(first["compactness"]) == rows["cdam"].compactness[0]
    assert float(first["correlation_first_two_targets"]) == rows["cdam"].correlation
    assert (first["fidelity"], first["correlation_all_blocks"]) == ("", "0.1")
    assert table[1]["correlation_all_blocks"] == ""  # the other class was not checked
    assert {line["resolution"] for line in table} == {"patch", "pixel"}


def test_the_file_of_scores_holds_every_map_and_what_made_it(rows):
    content = _methods_files.scores([row.explanation for row in rows.values()])
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for name, row in rows.items():
            np.testing.assert_array_equal(arrays[f"{name}.scores"], row.explanation.scores)
        made = json.loads(str(arrays["provenance"]))
    assert set(made) == set(rows)
    assert made["cdam"]["settings"] == {"heads": None, "path": "both"}


def test_the_sheet_shows_every_map_of_every_method(rows):
    sample = next(iter(samples().values()))
    prepared = _state.prepare("scenes", _state._sample_picture(sample.id))
    sizes = []
    for some in ({"cdam": rows["cdam"]}, rows):
        content = _methods_files.sheet(prepared, some, _methods_cards.Look(), "method")
        with Image.open(io.BytesIO(content)) as picture:
            sizes.append(picture.size)
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
        assert (np.ptp(colours, axis=1) > 100).mean() > 0.001  # strong colours are there
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 2 * sizes[0][1]
