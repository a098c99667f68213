"""What leaves the app: files that replay as identical, code that runs, addresses, regions."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core import archive, catalogue, provenance
from cdam_core.__main__ import main
from cdam_core.regions import shares, shares_words
from pages import _downloads, _exports, _links, _several, _state
from pages._samples import samples
from tests.test_pages import FRAME, MANY, opened, own_picture, png, upload, viewer, widget

PAGES = FRAME.parent


@pytest.fixture(autouse=True)
def familiar(monkeypatch):
    """The pictures of noise used here are to be explained, not warned of."""
    monkeypatch.setattr(cdam.VisionModel, "is_unfamiliar", lambda *_: False)


@pytest.fixture
def offered(monkeypatch):
    """Name of a download -> function that makes it, of the last run."""
    found, original = {}, _downloads.buttons

    def buttons(page, parts, offers):
        offers = list(offers)
        found.update({f"{page}.{suffix}": make for _, suffix, _, make in offers})
        original(page, parts, offers)

    monkeypatch.setattr(_downloads, "buttons", buttons)
    return found


def draw(at: AppTest, description) -> AppTest:
    """As if a region had been drawn in the viewer."""
    picture = at.session_state["picture"]
    at.session_state["region"] = (
        f"scenes.{picture.digest[:16]}", cdam.Region.from_description(description)
    )  # fmt: skip
    return at.run()


# ---- files ---------------------------------------------------------------------------------------


def test_a_zip_made_in_the_app_replays_as_identical_from_the_command_line(
    offered, tmp_path, capsys
):
    at = opened(sample="dog-cat", method="integrated_cdam", **{"class": ["cat", "dog"]})
    draw(at, {"kind": "box", "points": [[0, 0], [0.5, 0.5]]})
    place = tmp_path / "app.zip"
    place.write_bytes(offered["compare.zip"]())
    assert main(["replay", str(place)]) == 0
    assert capsys.readouterr().out.startswith("identical")
    record = json.loads(archive.unpack(place)["explanation.json"])
    assert record["image"]["sample"] == "scenes/dog-cat.jpg"
    assert record["regions"] == [{"kind": "box", "points": [[0, 0], [0.5, 0.5]]}]
    assert record["explanations"][0]["labels"] == ["cat", "dog", "cat − dog"]
    assert offered["compare.pdf"]().startswith(b"%PDF")


def test_an_upload_leaves_the_app_as_a_digest_only(offered, tmp_path, capsys):
    large = np.kron(own_picture(3, 60, 200), np.ones((10, 10, 1), np.uint8))
    at = upload(opened(), png(large), name="Mrs_Jones_1950.png")
    content = offered["compare.zip"]()
    files = archive.unpack(content)
    assert not any(b"Jones" in data for data in files.values())
    assert set(files) == {
        "explanation.json", "maps-simulated.pdf", "maps-simulated.png", "maps-simulated.svg",
        "patches.csv", "reproduce.py", "scores.npz",
    }  # fmt: skip
    assert json.loads(files["explanation.json"])["image"]["reduced_to"] == _state.LONGEST_SIDE
    (tmp_path / "mine.png").write_bytes(png(large))
    (tmp_path / "mine.zip").write_bytes(content)
    assert main(["replay", str(tmp_path / "mine.zip")]) == 2
    capsys.readouterr()
    ask = ["replay", str(tmp_path / "mine.zip"), "--image", str(tmp_path / "mine.png")]
    assert main(ask) == 0
    assert capsys.readouterr().out.startswith("identical")
    assert not at.query_params


def test_several_methods_and_concepts_replay_too(offered, monkeypatch):
    monkeypatch.setattr(provenance, "_pictures", lambda *_: {})
    model = _state.get_model("scenes")
    at = opened(sample="owl")
    at.session_state["methods"] = ["cdam", "attention", "input_x_gradient"]
    at.switch_page(str(PAGES / "methods.py")).run()
    assert not at.exception
    content = offered["methods.zip"]()
    seen = cdam.replay(content, model=model)
    assert seen.is_identical, seen.words()
    assert len(seen.differences) > 1
    at.switch_page(str(PAGES / "concepts.py")).run()
    assert not at.exception
    content = offered["concepts.zip"]()
    assert any(name.startswith("concept-") for name in archive.unpack(content))
    seen = cdam.replay(content, model=model)
    assert seen.is_identical, seen.words()


def test_nothing_is_made_before_it_is_asked_for(monkeypatch):
    def too_early(*_, **__):
        raise AssertionError("made without being asked for")

    monkeypatch.setattr(provenance, "pack", too_early)
    monkeypatch.setattr(provenance, "describe", too_early)
    monkeypatch.setattr(_exports, "report", too_early)
    at = opened()
    assert not at.exception


def test_the_code_of_a_view_computes_its_scores():
    sample = samples()["lion-tiger"]
    image = cdam.open_image(sample.file)
    model = _state.get_model("scenes")
    e = cdam.explain(model, image, ["lion", cdam.Contrast("lion", "tiger")], heads=[1])
    parcel = _exports.Parcel("compare", [], model, _state._sample_picture(sample.id),
                             np.zeros(40), [e], provenance.Drawing())  # fmt: skip
    names = {}
    exec(_exports.code(parcel), names)
    np.testing.assert_array_equal(names["e"].scores, e.scores)


# ---- regions -------------------------------------------------------------------------------------


def test_the_shares_of_a_region_are_told_for_every_map():
    at = opened(sample="elephant-zebra", **{"class": ["zebra", "elephant"]})
    draw(at, {"kind": "lasso", "points": [[0.5, 0.4], [0.5, 1], [1, 1], [1, 0.4]]})
    assert viewer(at)["region"]["kind"] == "lasso"
    model = _state.get_model("scenes")
    image = cdam.open_image(samples()["elephant-zebra"].file)
    e = cdam.explain(model, image, ["zebra", "elephant", cdam.Contrast("zebra", "elephant")])
    region = at.session_state["region"][1]
    told = "\n".join(re.sub(r"\\(.)", r"\1", md.value) for md in at.markdown)
    found = [shares(scores, region.coverage(e.grid), e.content) for scores in e.scores]
    assert shares_words("zebra", found[0]) in told
    for label, each in zip(e.labels, found, strict=True):
        assert f"| {label} | {100 * each.positive:.0f} % | {100 * each.negative:.0f} % |" in told


def test_rows_and_columns_make_a_box_and_another_picture_has_no_region():
    at = opened()
    widget(at.slider, "region.rows").set_value((2, 5)).run()
    widget(at.slider, "region.cols").set_value((3, 24)).run()
    widget(at.button, "region.use").click().run()
    assert viewer(at)["region"] == {"kind": "box", "points": [[1 / 24, 2 / 24], [5 / 24, 1]]}
    widget(at.button, "region.remove").click().run()
    assert viewer(at)["region"] is None
    draw(at, {"kind": "box", "points": [[0, 0], [1, 1]]})
    assert viewer(at)["region"]
    upload(at, png(own_picture()))
    assert viewer(at)["region"] is None


@pytest.mark.parametrize(
    "sent",
    [None, [], {"kind": "box"}, {"kind": "box", "points": [[0, 0], [float("nan"), 1]]},
     {"kind": "<script>", "points": [[0, 0], [1, 1]]}, {"kind": "lasso", "points": [[0, 0]] * 9999},
     {"kind": "box", "points": [[0.2, 0.2], [0.2, 0.2]]}],
)  # fmt: skip
def test_what_is_no_region_changes_nothing(monkeypatch, sent):
    from pages import _regions

    state = {"viewer": {"region": sent}}
    monkeypatch.setattr(_regions.st, "session_state", state)
    _regions.on_drawn("viewer", "token")
    assert state == {"viewer": {"region": sent}}


# ---- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["../../etc", MANY, "timm:evil", "file:///x", "", "SCENES"])
def test_a_model_that_is_not_offered_is_never_loaded_from_an_address(monkeypatch, wanted):
    asked = []
    original = cdam.load_model
    monkeypatch.setattr(cdam, "load_model", lambda name: asked.append(name) or original("scenes"))
    at = opened(model=wanted)
    assert viewer(at)["panels"]
    assert wanted not in asked


def test_a_model_that_is_offered_is_taken_from_the_address_and_put_into_it(monkeypatch):
    chosen = []
    monkeypatch.setattr(_links._pickers, "model_labels",
                        lambda: {"scenes": "Everyday", "other": "Other"})  # fmt: skip
    monkeypatch.setattr(_links._pickers, "try_model", lambda name: chosen.append(name))
    opened(model="other")
    assert chosen == ["other"]
    sample = next(iter(samples().values()))
    state = {"model.choice": "other"}
    params = {}

    class Query(dict):
        def get_all(self, name):
            return [self[name]]

        def from_dict(self, wanted):
            params.update(wanted)

    monkeypatch.setattr(_links.st, "session_state", state)
    monkeypatch.setattr(_links.st, "query_params", Query())
    picture = _state._sample_picture(sample.id)
    _links.write(picture, ["zebra"], "cdam")
    assert params == {"sample": sample.id, "class": ["zebra"], "method": "cdam", "model": "other"}
    params.clear()
    _links.write(_state.Picture(picture.image, picture.digest, ()), ["zebra"], "cdam")
    assert params == {}


@pytest.mark.parametrize("side", ["224", "225", "-1", "1e9", "٢٢٤", MANY, ""])
def test_an_input_size_is_taken_from_the_address_where_the_model_offers_it(side, monkeypatch):
    state = {}
    monkeypatch.setattr(_links.st, "session_state", state)
    _links._follow_side(side)
    assert state == ({"model.sides": {"scenes": 224}} if side == "224" else {})
    assert _links._model_address() == ({"side": "224"} if side == "224" else {})


def test_a_zip_at_another_input_size_replays_as_identical(offered, monkeypatch):
    monkeypatch.setattr(provenance, "_pictures", lambda *_: {})
    at = opened(sample="owl", side="224")
    assert viewer(at)["grid"] == [16, 16]
    assert "224" in at.query_params["side"]
    assert cdam.replay(offered["compare.zip"]()).is_identical


def test_an_address_never_makes_the_server_fetch_a_model(monkeypatch):
    wanted = "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    entry = catalogue.Entry(wanted, "photographs", "", True, "ViT", 23_000_000)
    monkeypatch.setattr(catalogue, "offered", lambda: [entry])
    monkeypatch.setattr(_links._pickers, "model_labels", lambda: {wanted: "ViT"})
    monkeypatch.setattr(_links._pickers, "try_model", lambda _: pytest.fail("loaded"))
    state = {}
    monkeypatch.setattr(_links.st, "session_state", state)
    _links._follow_model(wanted)
    assert "not on this server yet" in state["model.problem"]


def test_a_link_to_a_concept_scene_opens_it():
    at = AppTest.from_file(str(FRAME), default_timeout=60)
    at.query_params["sample"] = "fox-dog"
    at.run()
    assert at.session_state["concept_scene"] == "fox-dog"


# ---- several pictures ----------------------------------------------------------------------------


def several(*files) -> AppTest:
    at = opened()
    at.switch_page(str(PAGES / "several.py")).run()
    at.file_uploader[0].set_value([(name, content, "image/png") for name, content in files]).run()
    assert not at.exception
    return at


def test_several_pictures_become_one_zip_of_zips_and_a_table():
    pictures = [png(own_picture(seed)) for seed in (1, 2)]
    at = several(("../one.png", pictures[0]), ("broken.png", b"no picture"),
                 ("one.png", pictures[1]))  # fmt: skip
    widget(at.multiselect, "several.classes").set_value([1, 0]).run()
    widget(at.button, "several.start").click().run(timeout=120)
    assert not at.exception
    items = at.session_state[_several.KEY]
    assert [item.name for item in items] == ["one", "broken", "one-2"]
    results = at.session_state["results"]
    found = [(item, next(value for key, value in results.items() if key[2] == item.digest))
             for item in items]  # fmt: skip
    files = archive.unpack(_several.together(found))
    assert sorted(files) == ["one-2-simulated.zip", "one-simulated.zip", "table.csv"]
    for name, content in (("one", pictures[0]), ("one-2", pictures[1])):
        assert cdam.replay(files[f"{name}-simulated.zip"], content).is_identical
    lines = files["table.csv"].decode().splitlines()
    assert len(lines) == 1 + 2 + 1 + 2
    assert "broken,left out: unreadable" in files["table.csv"].decode()
    shown = next(md.value for md in at.markdown if md.value.startswith("| Picture"))
    assert "zebra" in shown
    assert "not a readable image" in shown.replace("\\", "")
    widget(at.multiselect, "several.classes").set_value([2]).run()
    at.session_state["stopped"] = frozenset(key for key in results if key[0] == "several")
    widget(at.button, "several.start").click().run(timeout=120)
    assert {key[4] for key in at.session_state["results"] if key[0] == "several"} == {(2,)}
    assert not at.session_state["stopped"]
    widget(at.button, "several.forget").click().run()
    assert _several.KEY not in at.session_state
    assert not [key for key in at.session_state["results"] if key[0] == "several"]


def test_more_pictures_than_there_is_room_for_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(_several, "MAX_PICTURES", 2)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    at = several(*((f"{n}.png", buffer.getvalue()) for n in range(4)))
    assert len(at.session_state[_several.KEY]) == 2
    assert "2 files were left out" in at.warning[0].value.replace("\\", "")
