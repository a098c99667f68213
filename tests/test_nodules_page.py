"""The page "Lung nodules" without a browser: what it shows, compared with the library.

Triggers of components cannot be sent by AppTest, so the steps behind them are called on a session
of their own; the browser test presses the real thing.
"""

import base64
import json
from dataclasses import replace

import numpy as np
import pypdfium2 as pdfium
import pytest
from PIL import Image, ImageDraw
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core import provenance
from cdam_core.errors import BadScan
from cdam_core.images import digest
from cdam_core.nodules import (
    BIOMARKERS,
    Phantom,
    counterfactuals,
    load_nodules,
    load_split,
    to_image,
)
from cdam_core.nodules.browse import load_browse, read_browse
from cdam_core.nodules.card import BANNER, PROVENANCE_OF, UNITS
from cdam_core.nodules.crops import MIDDLE, Plane
from cdam_core.nodules.curves import Curves
from cdam_core.nodules.outlines import agreement
from pages import _nodules_case as cases
from pages import (
    _nodules_files,
    _nodules_maps,
    _nodules_pairs,
    _nodules_pick,
    _nodules_slices,
    _nodules_words,
)
from tests.scans import write_series
from tests.test_pages import FOLDER, component


def opened(**state) -> AppTest:
    at = AppTest.from_file(str(FOLDER / "_frame.py"), default_timeout=300)
    at.session_state["frame"] = True
    for key, value in state.items():
        at.session_state[key.replace("__", ".")] = value
    at.switch_page(str(FOLDER / "nodules.py")).run()
    assert not at.exception
    return at


def text_of(at) -> str:
    parts = (*at.markdown, *at.caption, *at.warning, *at.info, *at.error)
    return "\n".join(element.value for element in parts).replace("\\", "")


def every(at, name: str) -> list[dict]:
    """Data of all components of that name, in order."""
    return [json.loads(element.proto.json) for element in at.get("bidi_component")
            if element.proto.component_name == f"cdam_{name}"]


def listed(at) -> list[dict]:
    """The thumbnails to choose from."""
    return next(data["items"] for data in every(at, "thumbs")
                if data["label"] == _nodules_pick.LIST)


@pytest.fixture(scope="module")
def page() -> AppTest:
    return opened()


@pytest.fixture(scope="module")
def nodule():
    """What the page begins with: the first one that was not trained on."""
    test = set(load_split().test)
    return next(nodule for nodule in load_nodules() if nodule.id in test)


@pytest.fixture(scope="module")
def asked(nodule):
    """The library's answer about the middle slice: malignant, then the eight."""
    image = to_image(Phantom().crop(nodule))
    one = cdam.explain(cdam.load_model("nodules-malignancy"), image, ["malignant", "benign"])
    return one, cdam.explain(cdam.load_model("nodules-biomarkers"), image, list(BIOMARKERS))


def assert_values(shown, scores, decimals):
    np.testing.assert_allclose(shown, np.ravel(scores), atol=0.51 * 10**-decimals)


# ---- what is shown -------------------------------------------------------------------------------


def test_the_banner_is_the_agreed_text_word_for_word(page):
    assert [each.value.replace("\\", "") for each in page.warning] == [BANNER]


def test_it_begins_with_a_nodule_that_was_not_trained_on(page, nodule):
    assert f"Nodule {nodule.id}" in text_of(page)
    assert "not trained on" in text_of(page)
    slices = component(page, "ct")
    assert slices["key"] == f"ratings.{nodule.id}"
    assert slices["stamp"] == "SIMULATED CT"


def test_malignancy_is_what_the_library_says(page, asked):
    data = every(page, "maps")[0]
    assert [each["name"] for each in data["shown"]] == ["malignant"]
    assert_values(data["shown"][0]["values"], asked[0].scores[0], data["decimals"])
    logit = f"{abs(asked[0].values[0]):.2f}"
    assert logit in text_of(page)
    assert data["scale"]["high"].endswith("towards malignant")
    assert PROVENANCE_OF["malignancy"] in text_of(page)


def test_benign_is_the_negative_of_malignant(asked):
    at = opened(nodules__target="benign")
    data = every(at, "maps")[0]
    assert_values(data["shown"][0]["values"], -asked[0].scores[0], data["decimals"])
    assert data["scale"]["high"].endswith("towards benign")


def test_every_biomarker_has_its_map_value_readers_and_provenance(page, asked, nodule):
    data = component(page, "card")
    assert len(data["panels"]) == 8
    for name, panel, values, value, scores in zip(
        BIOMARKERS, data["panels"], data["values"], asked[1].values, asked[1].scores, strict=True
    ):
        assert panel["title"].startswith(f"{name}: {value:.1f}")
        readers, unit, tag = panel["note"].split("\n")
        assert unit == f"scores in {UNITS[name].partition(' (')[0]}"
        found = [r.ratings[name] for r in nodule.readers] if name != "diameter" \
            else nodule.diameters  # fmt: skip
        assert readers.startswith(f"readers {np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}")
        assert tag == PROVENANCE_OF[name]
        assert_values(values, scores, data["decimals"])


def test_a_sentence_says_how_to_read_each_of_the_eight(page):
    table = next(each.value for each in page.markdown if each.value.startswith("| Biomarker"))
    assert [line.split("**")[1] for line in table.splitlines()[2:]] == list(BIOMARKERS)
    said = next(each.value for each in page.markdown if each.value.startswith("- **subtlety"))
    lines = said.splitlines()
    assert [line.split("**")[1] for line in lines] == list(BIOMARKERS)
    where = {"margin": "edge", "diameter": "body", "spiculation": "spicules"}
    for name, word in where.items():
        assert word in next(line for line in lines if f"**{name}**" in line)


def test_two_biomarkers_are_compared_as_the_library_contrasts_them(nodule):
    at = opened(nodules__a="texture", nodules__b="margin")
    data = every(at, "maps")[1]
    model = cdam.load_model("nodules-biomarkers")
    found = cdam.explain(model, to_image(Phantom().crop(nodule)),
                         ["texture", "margin", cdam.Contrast("texture", "margin")])
    assert [panel["badge"] for panel in data["panels"]] == ["A", "B", "A − B"]
    for shown, scores in zip(data["shown"], found.scores, strict=True):
        assert_values(shown["values"], scores, data["decimals"])
    assert "no common unit" not in text_of(at)
    at = opened(nodules__a="diameter", nodules__b="margin")
    assert "no common unit" in text_of(at)
    assert "Choose two different" in text_of(opened(nodules__a="margin", nodules__b="margin"))


def test_the_size_baseline_stands_beside_the_accuracy(page):
    rows = cdam.MODELS["nodules-malignancy"]["quality"]["test"]["malignant"]
    for row in ("model", "log(area)"):
        assert f"{rows[row]['accuracy']['value']:.2f}" in text_of(page)


# ---- the counterfactual proof --------------------------------------------------------------------


def minus(text: str) -> str:
    return text.replace("-", "−")


def test_nothing_of_the_proof_is_made_before_it_is_opened(page):
    assert [each.label for each in page.expander if "proof" in each.label] == [_nodules_pairs.LABEL]
    assert len(every(page, "maps")) == 2  # malignancy, and two compared
    assert "of its map's change" not in text_of(page)


@pytest.mark.parametrize("kind", counterfactuals.KINDS)
def test_the_proof_says_and_draws_what_the_library_compares(nodule, kind):
    at = opened(nodules__proof=True, nodules__proof__kind=kind)
    model = cdam.load_model("nodules-biomarkers")
    found = counterfactuals.pair(nodule, kind)
    numbers = counterfactuals.compare(model, found, kind)
    said = text_of(at)
    for number in (f"**{numbers['before']:.2f}** to **{numbers['after']:.2f}**",
                   f"**{100 * numbers['share']:.1f} %** of its map's change",
                   f"**{100 * numbers['pixels']:.1f} %** of the crop"):  # fmt: skip
        assert minus(number) in said
    rises = numbers["after"] > numbers["before"]
    assert f"{'up' if rises else 'down'} by " in said
    assert ("as it should. " in said) == (rises == (kind in ("spiculation", "diameter")))
    # Two crops and where they differ; two maps and their change, on the scale of all three.
    data = every(at, "maps")[2]
    old, new = (counterfactuals.answer(model, hu, kind)[1] for hu in found[:2])
    for shown, scores in zip(data["shown"], (old, new, new - old), strict=True):
        assert_values(shown["values"], scores, data["decimals"])
    assert len(data["panels"]) == 6
    assert all("SIMULATED CT" in panel["note"] for panel in data["panels"])
    assert len({panel["src"] for panel in data["panels"]}) == 6
    scale = np.percentile(np.abs([old, new, new - old]), 99)
    assert float(data["scale"]["high"].split()[0].lstrip("+")) == pytest.approx(scale, rel=0.03)
    # What was measured, from the card.
    stated = cdam.MODELS["nodules-biomarkers"]["quality"]["counterfactuals"][kind]
    assert "Measured on 130 such pairs of test nodules" in said
    for name, factor, decimals in (("moves", 100, 0), ("by", 1, 2), ("share", 100, 0),
                                   ("pixels", 100, 0)):  # fmt: skip
        value, low, high = (f"{factor * x:.{decimals}f}" for x in
                            (stated[name]["value"], *stated[name]["interval"]))  # fmt: skip
        assert f"{value}{' %' if factor == 100 else ''} [{low}, {high}]" in said
    assert ("our construction" if kind == "spiculation" else "tests the simulator") in said


def test_an_output_that_moves_the_wrong_way_is_called_so():
    numbers = {"before": 2.0, "after": 1.5, "share": 0.5, "pixels": 0.125}
    assert "down by 0.50 rating points, though it should move up. **50.0 %**" in \
        _nodules_pairs.moved("spiculation", numbers)  # fmt: skip
    assert "down by 0.50 rating points, as it should." in _nodules_pairs.moved("texture", numbers)
    still = _nodules_pairs.moved("diameter", numbers | {"after": 2.0})
    assert "nowhere by 0.00 mm, though it should move up" in still


def test_a_pair_is_asked_behind_the_gate_and_once(monkeypatch, nodule):
    _nodules_pairs.proof.cache_clear()
    entered = []

    class Slot:
        def __enter__(self):
            entered.append(1)

        def __exit__(self, *failure):
            entered.append(0)

    monkeypatch.setattr(_nodules_pairs, "slot", Slot)
    made = _nodules_pairs.proof(nodule.id, "texture")
    assert _nodules_pairs.proof(nodule.id, "texture") is made
    assert entered == [1, 0]


def test_a_change_that_alters_nothing_is_said(monkeypatch):
    same = np.zeros((64, 64), np.float32)
    unchanged = counterfactuals.Pair(same, same, np.zeros((64, 64), bool))
    monkeypatch.setattr(_nodules_pairs, "pair", lambda nodule, kind: unchanged)
    _nodules_pairs.proof.cache_clear()
    at = opened(nodules__proof=True)
    _nodules_pairs.proof.cache_clear()
    assert "alters no pixel" in text_of(at)
    assert len(every(at, "maps")) == 2


# ---- slices and windows --------------------------------------------------------------------------


def test_the_browser_gets_every_plane_in_hounsfield_units(page, nodule):
    data = component(page, "ct")
    values = np.frombuffer(base64.b64decode(data["values"]), "<i2").reshape(-1, 64, 64)
    axis = data["axes"]["axial"]
    assert len(values) == axis["last"] - axis["first"] + 1 == 19
    for index, offset in enumerate(axis["offsets"]):
        np.testing.assert_allclose(values[index], Phantom().crop(nodule, Plane(offset)), atol=0.51)
    assert set(data["axes"]) == {"axial"}
    ranges = {each["name"]: each["range"] for each in data["windows"]}
    assert ranges["Lung −600/1500"] == [-1350, 150]
    assert ranges["Mediastinum 40/400"] == [-160, 240]


def test_what_the_models_get_is_their_own_window_whatever_is_shown(nodule):
    case = cases.bundled_case("ratings", nodule.id)
    found = cases.answer(case)
    assert found.digest == digest(to_image(Phantom().crop(nodule), -1000, 400))
    file_window = _nodules_slices.viewer_data(case, MIDDLE, (0.0, 80.0))["windows"][-1]
    assert file_window == {"name": "As in the file", "range": [0.0, 80.0]}
    assert cases.answer(case) is found


def test_another_slice_is_explained_when_it_is_asked_for(monkeypatch, nodule):
    state = {}
    monkeypatch.setattr(_nodules_slices.st, "session_state", state)
    case = cases.bundled_case("ratings", nodule.id)
    for sent in (None, [], ["axial"], ["axial", 99], ["coronal", 32], ["axial", "x"], "axial"):
        _nodules_slices.take_plane(case, sent)
        assert _nodules_slices.current_plane(case) == MIDDLE
    _nodules_slices.take_plane(case, ["axial", 35])
    assert _nodules_slices.current_plane(case) == Plane(1.5)
    image = to_image(Phantom().crop(nodule, Plane(1.5)))
    assert cases.answer(case, Plane(1.5)).digest == digest(image)
    other = cases.bundled_case("solid", nodule.id)
    assert _nodules_slices.current_plane(other) == MIDDLE


def test_curves_are_the_readers_outlines_and_half_of_them_is_the_consensus():
    for nodule in load_nodules()[:12]:
        curves = Curves(nodule)
        for plane in (MIDDLE, Plane(2.0), Plane(0, "coronal"), Plane(-1.5, "sagittal")):
            share = agreement(nodule, plane)
            np.testing.assert_array_equal(curves.mask(plane, 64), share >= 0.5)
            drawn = curves.at(plane)
            inside = share > 0
            points = [line for lines in drawn.readers for line in lines]
            assert bool(points) == bool(inside.any()) or inside.sum() < 6
            for line in points:
                assert line.min() >= 0
                assert line.max() <= 64


def test_curves_lie_on_the_border_of_what_they_hold():
    nodule = load_nodules()[0]
    drawn, share = Curves(nodule).at(MIDDLE), agreement(nodule)
    mask = Image.new("1", (640, 640))
    for line in drawn.consensus:
        ImageDraw.Draw(mask).polygon([(10 * col, 10 * row) for row, col in line], fill=1)
    filled = np.asarray(mask)[5::10, 5::10]
    assert (filled != (share >= 0.5)).mean() < 0.002


# ---- choosing ------------------------------------------------------------------------------------


def test_filters_keep_what_they_say():
    at = opened(nodules__part="all", nodules__label="malignant", nodules__size=(10, 20),
                nodules__rating="spiculation")
    at.slider(key="nodules.span.spiculation").set_value((2.0, 5.0)).run()
    expected = [n for n in load_nodules() if n.malignant and 10 <= n.diameters.mean() <= 20
                and 2 <= np.mean([r.ratings["spiculation"] for r in n.readers]) <= 5]
    assert f"{len(expected)} of 862 nodules" in text_of(at)
    shown = [item["id"] for item in listed(at)]
    assert shown == [str(n.id) for n in expected[:_nodules_pick.PAGE]]
    at.button(key="nodules.on").click().run()
    shown = [item["id"] for item in listed(at)]
    assert shown == [str(n.id) for n in expected[_nodules_pick.PAGE : 2 * _nodules_pick.PAGE]]


def test_filters_that_leave_nothing_say_so():
    at = opened(nodules__label="benign", nodules__size=(59, 60))
    assert "No nodule fits" in text_of(at)
    assert component(at, "ct") is None


def test_what_is_no_nodule_changes_nothing(monkeypatch):
    state = {"nodules.id": 7}
    monkeypatch.setattr(_nodules_pick.st, "session_state", state)
    for text in ("0", "-1", "x", "9" * 30, ""):
        _nodules_pick.choose(text)
    assert state == {"nodules.id": 7}


def test_thumbnails_are_the_phantoms_middle_planes():
    browse = load_browse()
    assert set(browse.ids) == {nodule.id for nodule in load_nodules()}
    for nodule in load_nodules()[::200]:
        small = to_image(Phantom().crop(nodule)).convert("L").resize((48, 48))
        shown = np.asarray(browse.thumbnail(nodule.id).convert("L"), float)
        assert np.abs(shown - np.asarray(small, float)).mean() < 4
    assert browse.thumbnail(-1) is None


# ---- neighbours ----------------------------------------------------------------------------------


def test_neighbours_are_the_nearest_by_embedding_and_never_of_the_same_patient(page, nodule):
    browse, model = load_browse(), cdam.load_model("nodules-malignancy")
    assert browse.weights_sha256 == model.weights_sha256
    assert set(browse.trained) == set(load_split().train)
    image = to_image(Phantom().crop(nodule))
    embedding = model.embed(model.preprocess(image)).numpy()[0]
    np.testing.assert_allclose(model.latent(model.encode_image(image)).numpy(), embedding,
                               atol=1e-4)
    by_id = {each.id: each for each in load_nodules()}
    cosines = {k: float(row @ embedding / np.linalg.norm(embedding))
               for k, row in zip(browse.trained, browse.embeddings, strict=True)
               if by_id[k].patient_id != nodule.patient_id}
    expected = sorted(cosines, key=cosines.get, reverse=True)[:5]
    items = next(data["items"] for data in every(page, "thumbs")
                 if data["label"].startswith("Nearest"))
    assert [item["id"] for item in items] == [str(k) for k in expected]
    for item, k in zip(items, expected, strict=True):
        called = "malignant" if by_id[k].malignant else "benign"
        assert item["text"].startswith(called)
        assert item["note"].endswith(f"{cosines[k]:.2f}")
        assert len(item["srcs"]) == 2  # the crop and its map


def test_stored_embeddings_are_those_of_the_bundled_model():
    browse, model = load_browse(), cdam.load_model("nodules-malignancy")
    for nodule in [n for n in load_nodules() if n.id in browse.trained][::300]:
        own = model.latent(model.encode_image(to_image(Phantom().crop(nodule)))).numpy()
        (found, cosine), = browse.nearest(own, 1)
        assert found == nodule.id
        assert cosine > 0.999


def test_a_damaged_file_of_thumbnails_is_one_sentence(tmp_path):
    for content, reason in ((None, "not-found"), (b"PK", "damaged")):
        if content is not None:
            (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(BadScan) as caught:
            read_browse(tmp_path / "x.npz")
        assert caught.value.reason == reason


def test_embeddings_of_other_weights_are_not_used(monkeypatch):
    other = replace(load_browse(), weights_sha256="0")
    monkeypatch.setattr(_nodules_maps, "load_browse", lambda: other)
    assert "other weights" in text_of(opened())


def test_a_neighbour_is_opened_wherever_it_is(monkeypatch):
    state = {"nodules.id": 7, "nodules.source": "solid", "nodules.source.kept": "solid"}
    monkeypatch.setattr(_nodules_pick.st, "session_state", state)
    last = load_nodules()[-1]
    _nodules_pick.open_nodule(str(last.id))
    assert state["nodules.id"] == last.id
    assert state["nodules.part"] == "all"
    assert state["nodules.page"] == 861 // _nodules_pick.PAGE


# ---- other sources -------------------------------------------------------------------------------


def test_the_shape_only_phantom_is_another_picture(page, nodule):
    at = opened(nodules__source="solid")
    assert component(at, "ct")["key"] == f"solid.{nodule.id}"
    ours = np.stack([Phantom("solid").crop(nodule)])
    np.testing.assert_allclose(cases.bundled_case("solid", nodule.id).hu(MIDDLE), ours[0])


def test_real_scans_are_offered_only_where_the_administrator_names_a_folder(
    page, monkeypatch, tmp_path, nodule
):
    assert len(page.selectbox(key="nodules.source").options) == 3
    monkeypatch.setenv("CDAM_LIDC", str(tmp_path / "none"))
    assert len(opened().selectbox(key="nodules.source").options) == 3
    write_series(tmp_path / "scans", nodule)
    monkeypatch.setenv("CDAM_LIDC", str(tmp_path / "scans"))
    at = opened(nodules__source="dicom")
    assert len(at.selectbox(key="nodules.source").options) == 4
    slices = component(at, "ct")
    assert set(slices["axes"]) == {"axial", "coronal", "sagittal"}
    assert slices["stamp"] == "RESEARCH USE ONLY · NOT A MEDICAL DEVICE"
    said = at.warning[0].value.replace("\\", "")
    assert said.startswith("This scan is real")
    assert said.endswith(BANNER)
    case = cases.bundled_case("dicom", nodule.id)
    volume = cases.archive().volume(nodule)
    for axis in ("axial", "coronal", "sagittal"):
        np.testing.assert_array_equal(case.hu(Plane(3.0, axis)),
                                      cases.archive().crop(nodule, Plane(3.0, axis)))
    data = np.frombuffer(base64.b64decode(slices["values"]), "<i2").reshape(64, 64, 64)
    np.testing.assert_allclose(data, volume, atol=0.51)
    assert "SECRET" not in text_of(at)
    assert all("proof" not in each.label for each in at.expander)


# ---- files ---------------------------------------------------------------------------------------


def test_reports_hold_values_readers_stamp_and_banner(nodule, asked):
    case = cases.bundled_case("ratings", nodule.id)
    seen = _nodules_maps.Seen(case, MIDDLE, cases.answer(case), _nodules_maps.Look())
    words = {}
    for model_id in (cases.MALIGNANCY, cases.MARKERS):
        pages = pdfium.PdfDocument(_nodules_files.report(seen, model_id))
        assert len(pages) == 1
        words[model_id] = " ".join(pages[0].get_textpage().get_text_range().split())
        assert "SIMULATED CT" in words[model_id]
        assert "every grey value is computed" in words[model_id]
        assert f"nodule {nodule.id}" in words[model_id]
    for name, value in zip(BIOMARKERS, asked[1].values, strict=True):
        row = f"{name}, {UNITS[name]} {value:.2f}".replace("-", "−")
        assert row in words[cases.MARKERS]
        assert " ".join(_nodules_words.HOW_TO_READ[name].split()) in words[cases.MARKERS]
        assert f"{nodule.biomarkers[name]:.2f}" in words[cases.MARKERS]
    assert "logit" not in words[cases.MARKERS]
    assert f"{abs(asked[0].values[0]):.2f}" in words[cases.MALIGNANCY]
    assert "simulated" in "_".join(_nodules_files.name_parts(seen))


def test_every_biomarker_leaves_in_its_own_unit(asked):
    """One place decides: the card that the model brings along."""
    assert cdam.MODELS[cases.MARKERS]["units"] == UNITS
    assert UNITS["diameter"] == "mm"
    assert "(1 to 6)" in UNITS["calcification"]
    malignancy, markers = asked
    assert set(malignancy.units) == {"logit"}
    assert markers.units == tuple(UNITS[name] for name in BIOMARKERS)
    assert markers.provenance()["units"] == list(markers.units)
    said = json.loads(markers.to_csv().splitlines()[0].removeprefix("# "))
    assert said["units"] == list(markers.units)
    model = cdam.load_model(cases.MARKERS)
    mixed = cdam.explain(model, to_image(Phantom().crop(load_nodules()[0])),
                         [cdam.Contrast("margin", "texture"), cdam.Contrast("margin", "diameter")])
    assert mixed.units == ("rating points (1 to 5)", "rating points (1 to 5) − mm")
    record = provenance.describe(model, to_image(Phantom().crop(load_nodules()[0])), [mixed])
    assert record["explanations"][0]["units"] == list(mixed.units)
    assert not _nodules_words.units_differ("margin", "calcification")
    assert _nodules_words.units_differ("margin", "diameter")


# ---- words ---------------------------------------------------------------------------------------


def test_every_output_has_a_provenance_and_a_sentence():
    for name in (*BIOMARKERS, "malignant", "benign"):
        assert _nodules_words.tag(name) in PROVENANCE_OF.values()
    assert set(_nodules_words.HOW_TO_READ) == {*BIOMARKERS, "malignant"}
    assert _nodules_words.probability(0) == 0.5
    assert _nodules_words.probability(-1e9) < 1e-20
