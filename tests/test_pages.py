"""The pages without a browser: what they show, compared with the library asked directly."""

import ast
import base64
import io
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
import pages
from cdam_core import hub
from cdam_core.images import fit_mask
from cdam_core.models import imagenet_names
from cdam_core.pictures import PALETTES
from pages import _cache, _errors, _frame, _gate, _links, _pickers, _state, _words
from pages._samples import samples
from tests.test_gate import one_slot

FOLDER = Path(pages.__file__).parent
FRAME = FOLDER / "_frame.py"
VARIANTS = ("cdam", "smooth_cdam", "integrated_cdam")
MANY = "x" * 100_000


@pytest.fixture(scope="module")
def model():
    return _state.get_model("scenes")


@pytest.fixture(autouse=True)
def familiar(monkeypatch):
    """The pictures of noise used here are to be explained, not warned of."""
    monkeypatch.setattr(cdam.VisionModel, "is_unfamiliar", lambda *_: False)


def opened(**address) -> AppTest:
    """The app after its first run, with values in the address."""
    at = AppTest.from_file(str(FRAME), default_timeout=60)
    for name, value in address.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def component(at: AppTest, name: str, title: str | None = None) -> dict | None:
    """Data of the first component of that name (and title) on the page."""
    for element in at.get("bidi_component"):
        data = json.loads(element.proto.json)
        if element.proto.component_name == f"cdam_{name}" and title in (None, data.get("title")):
            return data
    return None


def viewer(at: AppTest) -> dict:
    assert not at.exception
    return component(at, "maps")


def picture_of(panel: dict) -> np.ndarray:
    data = base64.b64decode(panel["src"].split(",")[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def widget(elements, start: str):
    """The widget whose key begins with ``start``."""
    return next(element for element in elements if (element.key or "").startswith(start))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def own_picture(seed: int = 0, height: int = 120, width: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def upload(at: AppTest, content: bytes, name: str = "picture.png") -> AppTest:
    at.file_uploader[0].upload(name, content, "image/png").run()
    assert not at.exception
    return at


def assert_shows(at: AppTest, explanation: cdam.Explanation) -> None:
    """The numbers in the viewer are those of the library, up to the digits shown."""
    data = viewer(at)
    assert [shown["name"] for shown in data["shown"]] == list(explanation.labels)
    for shown, scores in zip(data["shown"], explanation.scores, strict=True):
        np.testing.assert_allclose(
            shown["values"], scores.ravel(), atol=0.51 * 10 ** -data["decimals"]
        )


def asked_directly(model, a, b, *more, sample=None, **settings) -> cdam.Explanation:
    sample = sample or next(iter(samples().values()))
    targets = [a, b, cdam.Contrast(a, b), *more]
    return cdam.explain(model, cdam.open_image(sample.file), targets, **settings)


# ---- the comparison ------------------------------------------------------------------------------


def test_it_opens_with_the_two_strongest_answers_of_the_first_sample(model):
    at = opened()
    image = cdam.open_image(next(iter(samples().values())).file)
    logits = model.logits(model.encode_image(image)).numpy()
    a, b = np.argsort(-logits)[:2].tolist()
    assert at.title[0].value == f"Why {model.class_names[a]} rather than {model.class_names[b]}?"
    assert [panel["badge"] for panel in viewer(at)["panels"]] == ["", "A", "B", "A − B"]
    assert_shows(at, asked_directly(model, a, b))
    top = component(at, "bars", "Strongest answers (logits)")["items"]
    assert [item["name"] for item in top[:2]] == [model.class_names[a], model.class_names[b]]
    assert [item["text"] for item in top] == [_words.signed(x) for x in -np.sort(-logits)[:5]]


def test_classes_can_be_changed_and_added(model):
    at = opened()
    widget(at.selectbox, "a.").select(3).run()
    widget(at.selectbox, "b.").select(7).run()
    assert_shows(at, asked_directly(model, 3, 7))
    widget(at.multiselect, "more.").select(11).run()
    assert_shows(at, asked_directly(model, 3, 7, 11))
    assert at.title[0].value == f"Why {model.class_names[3]} rather than {model.class_names[7]}?"


def test_choosing_the_other_class_swaps_the_two(model):
    at = opened()
    widget(at.selectbox, "a.").select(3).run()
    widget(at.selectbox, "b.").select(7).run()
    widget(at.selectbox, "a.").select(7).run()
    assert_shows(at, asked_directly(model, 7, 3))


@pytest.mark.parametrize("method", VARIANTS)
def test_every_variant_shows_its_own_scores(model, method):
    at = opened(**{"class": ["zebra", "elephant"]})
    at.selectbox(key="method").select(method).run()
    assert_shows(at, asked_directly(model, "zebra", "elephant", method=method))


def test_single_heads_add_up_to_the_whole_and_belong_to_plain_cdam(model):
    at = opened(**{"class": ["zebra", "elephant"]})
    whole = np.array(viewer(at)["shown"][0]["values"])
    heads = widget(at.selectbox, "head.").options[1:]
    assert len(heads) == model.module.blocks[-1].attn.num_heads
    total = 0
    for name in heads:
        widget(at.selectbox, "head.").select(name).run()
        total = total + np.array(viewer(at)["shown"][0]["values"])
    assert_shows(at, asked_directly(model, "zebra", "elephant", heads=[len(heads) - 1]))
    np.testing.assert_allclose(total, whole, atol=(len(heads) + 1) * 10.0 ** -2)
    at.selectbox(key="method").select("smooth_cdam").run()
    assert widget(at.selectbox, "head.").disabled


def test_the_look_changes_pictures_but_no_scores(model):
    at = opened()
    before = viewer(at)
    at.slider(key="opacity").set_value(40)
    at.selectbox(key="palette").select("paper")
    at.toggle(key="smooth").set_value(True)
    at.toggle(key="outlines").set_value(True).run()
    after = viewer(at)
    assert before["shown"] == after["shown"]
    for old, new in zip(before["panels"], after["panels"], strict=True):
        assert (picture_of(old) != picture_of(new)).mean() > 0.01


def test_nothing_is_encoded_again_on_an_open_picture(monkeypatch):
    at = opened()

    def encode(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(cdam.VisionModel, "encode", encode)
    widget(at.selectbox, "a.").select(5).run()
    at.selectbox(key="method").select("integrated_cdam").run()
    at.slider(key="opacity").set_value(40).run()
    viewer(at)


def test_all_panels_are_drawn_on_the_one_printed_scale():
    at = opened(**{"class": ["zebra", "elephant"]})
    at.slider(key="opacity").set_value(100).run()
    data = viewer(at)
    scale = float(data["scale"]["high"].split()[0])
    assert data["scale"]["low"].endswith(f"−{scale:.{data['decimals']}f}")
    strongest = np.array(PALETTES["blue_orange"].table()[-1], float)
    for shown, panel in zip(data["shown"], data["panels"][1:], strict=True):
        pixels = picture_of(panel).astype(float)
        side = pixels.shape[0] // data["grid"][0]
        for index in np.flatnonzero(np.array(shown["values"]) >= scale):
            row, col = divmod(int(index), data["grid"][1])
            middle = pixels[row * side + side // 2, col * side + side // 2]
            np.testing.assert_allclose(middle, strongest, atol=12)


def test_the_printed_scale_and_what_lies_beyond_it_are_true(model):
    data = viewer(opened(**{"class": ["zebra", "elephant"]}))
    scores = asked_directly(model, "zebra", "elephant").scores
    scale, digits = np.quantile(np.abs(scores), 0.99), data["decimals"]
    assert data["scale"]["high"].startswith(_words.signed(scale, digits))
    assert data["scale"]["low"].endswith(_words.signed(-scale, digits))
    largest = _words.signed(scores.flat[np.abs(scores).argmax()], digits)
    assert f"1 % of the scores lie beyond ±{scale:.{digits}f}, up to {largest}." in (
        data["scale"]["note"]
    )


# ---- one patch -----------------------------------------------------------------------------------


def test_the_inspector_ranks_all_classes_at_the_chosen_patch(model):
    at = opened()
    at.number_input(key="patch.row").set_value(4)
    at.number_input(key="patch.col").set_value(9).run()
    image = cdam.open_image(next(iter(samples().values())).file)
    scores = cdam.explain(model, image, cdam.ALL).scores[:, 3, 8]
    order = np.argsort(-scores)
    best = [item["name"] for item in component(at, "bars", "Speaks most for")["items"]]
    worst = [item["name"] for item in component(at, "bars", "Speaks most against")["items"]]
    assert best == [model.class_names[c] for c in order[:5] if scores[c] > 0]
    assert worst == [model.class_names[c] for c in order[::-1][:5] if scores[c] < 0]
    assert viewer(at)["selected"] == [3, 8]


def test_the_tooltip_holds_the_same_numbers_for_every_patch(model):
    at = opened()
    data = viewer(at)
    image = cdam.open_image(next(iter(samples().values())).file)
    scores = np.round(cdam.explain(model, image, cdam.ALL).scores, data["decimals"])
    for index in range(0, scores[0].size, 17):
        row, col = divmod(index, data["grid"][1])
        expected = np.sort(scores[:, row, col])
        given = [value for _, value in data["supported"][index]]
        np.testing.assert_allclose(given, [v for v in expected[::-1][:3] if v > 0], atol=2e-5)
        given = [value for _, value in data["opposed"][index]]
        np.testing.assert_allclose(given, [v for v in expected[:3] if v < 0], atol=2e-5)
        for c, value in data["supported"][index]:
            assert value == pytest.approx(scores[c, row, col], abs=2e-5)


def test_at_first_the_strongest_patch_is_chosen(model):
    data = viewer(opened())
    values = np.array(data["shown"][0]["values"]).reshape(data["grid"])
    assert values[tuple(data["selected"])] == values.max()


# ---- samples -------------------------------------------------------------------------------------


def test_words_say_where_the_positive_evidence_lies(model):
    sample = next(sample for sample in samples().values() if len(set(sample.objects)) == 2)
    a, b = sample.objects[:2]
    at = opened(sample=sample.id, **{"class": [a, b]})
    rows, cols = viewer(at)["grid"]
    positive = asked_directly(model, a, b, sample=sample).scores[0].clip(0)
    mask = fit_mask(sample.read_mask(), (rows * 8, cols * 8))
    pixels = positive.repeat(8, 0).repeat(8, 1)
    shares = [100 * pixels[mask == number].sum() / pixels.sum() for number in (1, 2)]
    words = next(md.value for md in at.markdown if "positive evidence" in md.value)
    sentence = words.splitlines()[0]
    a, b = map(_words.plain, (a, b))
    assert f"of the positive evidence for {a} lies on the {a}, **" in sentence
    assert sentence.rstrip().endswith(f"on the {b}.")
    given = [int(number) for number in re.findall(r"\*\*(\d+) %\*\*", sentence)]
    np.testing.assert_allclose(given, shares, atol=3)


def test_words_say_when_a_class_is_not_in_the_picture():
    sample = next(iter(samples().values()))
    absent = next(name for name in ("hammer", "owl", "cat") if name not in sample.objects)
    at = opened(sample=sample.id, **{"class": [absent]})
    words = next(md.value for md in at.markdown if "positive evidence" in md.value)
    assert words.startswith(f"{absent} is not in this picture; **")


def test_the_gallery_shows_every_sample_and_marks_the_present_one():
    last = list(samples())[-1]
    gallery = component(opened(sample=last), "gallery")
    assert [item["id"] for item in gallery["items"]] == list(samples())
    assert gallery["chosen"] == last


def test_without_samples_the_page_asks_for_a_picture(monkeypatch):
    for module in (_state, _pickers, _links):
        monkeypatch.setattr(module, "samples", dict)
    at = opened()
    assert "Open a picture" in at.info[0].value
    upload(at, png(own_picture()))
    assert viewer(at)["panels"]


# ---- uploads -------------------------------------------------------------------------------------


def test_an_upload_is_shown_and_its_file_dropped(model):
    at = opened()
    pixels = own_picture(1)
    upload(at, png(pixels), name="**Mrs_Jones** <b>1950</b>.png")
    kept = at.session_state["picture"]
    np.testing.assert_array_equal(np.asarray(kept.image), pixels)
    assert kept.sample is None
    assert at.file_uploader[0].key == "upload.1"
    assert not at.query_params
    everything = str([element.value for element in (*at.markdown, *at.caption, *at.title)])
    assert "Jones" not in everything
    image = cdam.open_image(png(pixels))
    a, b = np.argsort(-model.logits(model.encode_image(image)).numpy())[:2].tolist()
    assert_shows(at, cdam.explain(model, image, [a, b, cdam.Contrast(a, b)]))


def test_dropping_asks_the_server_to_remove_the_file(monkeypatch):
    removed = []

    class Manager:
        def remove_file(self, session, file):
            removed.append((session, file))

    class Context:
        session_id, uploaded_file_mgr = "session", Manager()

    class Uploaded:
        file_id = "file"

        def getvalue(self):
            return b"no picture"

    monkeypatch.setattr(_state, "get_script_run_ctx", Context)
    monkeypatch.setattr(_state.st, "session_state", {})
    with pytest.raises(cdam.BadImage):
        _state.take_upload(Uploaded())
    assert removed == [("session", "file")]


@pytest.mark.parametrize(
    "content", [b"", b"hello", png(own_picture())[:2000], png(own_picture(0, 8, 8))]
)
def test_a_bad_file_gets_one_sentence_and_the_picture_stays(content):
    at = opened()
    upload(at, png(own_picture(2)))
    before = viewer(at)
    upload(at, content)
    assert len(at.error) == 1
    assert len(re.findall(r"\\?\.(?=\s|$)", at.error[0].value)) == 1
    assert viewer(at)["shown"] == before["shown"]
    upload(at, png(own_picture(3)))
    assert not at.error


def test_two_pictures_one_pixel_apart_are_two_pictures():
    at = opened()
    pixels = own_picture(4, 700, 700)
    first = viewer(upload(at, png(pixels)))
    kept = at.session_state["picture"].digest
    pixels[350, 350] ^= 255
    second = viewer(upload(at, png(pixels)))
    assert at.session_state["picture"].digest != kept
    assert first["shown"] != second["shown"]


def test_padding_is_greyed_and_not_counted():
    at = opened()
    upload(at, png(own_picture(5, 100, 300)))
    data = viewer(at)
    content = np.array(data["content"]).reshape(data["grid"])
    assert not content[0].any()
    assert content[data["grid"][0] // 2].all()
    grey = picture_of(data["panels"][1])[:40].astype(int)
    assert np.ptp(grey, axis=2).max() <= 12  # no colour there
    at.number_input(key="patch.row").set_value(1).run()
    assert "padding" in at.info[0].value
    assert component(at, "bars", "Speaks most for") is None


def test_a_large_picture_is_kept_small_and_that_is_said():
    at = opened()
    upload(at, png(own_picture(6, 1000, 2000)))
    assert at.session_state["picture"].image.size == (1536, 768)
    assert any("reduced from 2000" in caption.value for caption in at.caption)


def test_forgetting_removes_the_picture():
    at = opened()
    first = at.title[0].value
    upload(at, png(own_picture(7)))
    forget = next(button for button in at.button if button.label == "Forget my picture")
    forget.click().run()
    assert at.title[0].value == first
    assert at.session_state["picture"].sample is not None
    assert not [button for button in at.button if button.label == "Forget my picture"]


# ---- a picture unlike the training data, and the model for photographs ---------------------------


@pytest.fixture
def no_hub(monkeypatch):
    silence = ("silent", "the model hub cannot be reached from here")
    monkeypatch.setattr(hub, "status", lambda: silence)
    monkeypatch.setattr(hub, "cached_weights", lambda _: None)


def test_an_unfamiliar_picture_gets_a_warning_instead_of_a_map(monkeypatch, no_hub):
    monkeypatch.setattr(cdam.VisionModel, "is_unfamiliar", lambda *_: True)
    _cache.shelf.clear()
    at = opened()
    assert viewer(at)  # a sample is never warned of
    upload(at, png(own_picture(8)))
    assert "unlike the pictures that this model was trained on" in at.warning[0].value
    assert viewer(at) is None
    assert component(at, "bars") is None
    next(b for b in at.button if b.label == "Use the model for photographs").click().run()
    assert "hub cannot be reached" in at.error[0].value.replace("\\", "")
    widget(at.toggle, "anyway.").set_value(True).run()
    assert len(viewer(at)["panels"]) == 4
    _cache.shelf.clear()


def test_a_model_that_cannot_be_had_leaves_the_one_before(no_hub):
    at = opened()
    before = viewer(at)["shown"]
    at.selectbox(key="model.choice").select(_state.PHOTO_MODEL).run()
    assert "hub cannot be reached" in at.error[0].value.replace("\\", "")
    assert at.selectbox(key="model.choice").value == "scenes"
    assert viewer(at)["shown"] == before


def test_the_model_for_photographs_offers_its_thousand_classes(monkeypatch):
    def load_model(_):
        torch.manual_seed(0)
        module = timm.create_model("vit_tiny_patch16_224", pretrained=False)
        return cdam.wrap(module, imagenet_names(), model_id=_state.PHOTO_MODEL)

    at = opened()
    with monkeypatch.context() as patch:
        patch.setattr(cdam, "load_model", load_model)
        patch.setattr("cdam_core.catalogue.fetch", lambda source, on_progress: on_progress(1, 2))
        at.selectbox(key="model.choice").select(_state.PHOTO_MODEL).run()
    try:
        assert viewer(at)["grid"] == [14, 14]
        names = widget(at.selectbox, "a.").options
        assert len(set(names)) == 1000  # two classes are called crane
        cranes = [name for name in names if name.startswith("crane ")]
        widget(at.selectbox, "a.").select(names.index(cranes[0]))
        widget(at.selectbox, "b.").select(names.index(cranes[1])).run()
        assert [shown["name"] for shown in viewer(at)["shown"]][:2] == ["crane", "crane"]
    finally:
        _state._large_model.clear(_state.PHOTO_MODEL)


def test_a_missing_bundled_model_is_one_sentence(monkeypatch):
    def get_model(_):
        raise cdam.BadCheckpoint("unreadable", "The weights file is missing.")

    monkeypatch.setattr(_state, "get_model", get_model)
    at = opened()
    assert at.error[0].value.replace("\\", "") == "The weights file is missing."
    _state.warm()  # the server starts all the same


# ---- addresses -----------------------------------------------------------------------------------


def test_an_address_names_sample_classes_and_method(model):
    last = list(samples())[-1]
    at = opened(sample=last, method="integrated_cdam", **{"class": ["lion", "owl", "cat"]})
    expected = asked_directly(
        model, "lion", "owl", "cat", sample=samples()[last], method="integrated_cdam"
    )
    assert_shows(at, expected)
    assert at.query_params["sample"] == last
    assert at.query_params["class"] == ["lion", "owl", "cat"]


@pytest.mark.parametrize(
    "address",
    [
        {"sample": "../../secret", "class": "<script>alert(1)</script>", "method": "__import__"},
        {"sample": MANY, "class": [MANY] * 9, "method": MANY},
        {"class": ["1000000000", "-1", ""], "method": "chefer"},
        {"class": ["nothing", "of", "this"], "unknown": "x", "sample": ""},
    ],
    ids=["hostile", "long", "numbers", "unknown"],
)
def test_values_that_do_not_fit_are_passed_over(address):
    plain, odd = opened(), opened(**address)
    assert viewer(odd)["shown"] == viewer(plain)["shown"]
    assert odd.title[0].value == plain.title[0].value


def test_one_good_value_survives_beside_bad_ones():
    at = opened(sample="nothing", **{"class": ["<b>", "owl", "owl"]})
    assert at.title[0].value.startswith("Why owl rather than ")


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["**b** [x](y) <i> $a$ :red[z] `c` # _d_ ~e~ |f| 1. g - h"])
def test_plain_text_has_no_live_markup_left(text):
    escaped = _words.plain(text)
    assert re.sub(r"\\(.)", r"\1", escaped) == text
    assert not re.search(r"(?<!\\)[*\[\]<>$:`#_~|]", escaped)


def test_numbers_carry_their_sign_and_zero_has_none():
    assert [_words.signed(x) for x in (0.214, -0.08, 0.0, -0.001)] == ["+0.21", "−0.08", "0.00",
                                                                       "0.00"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["cdam", "scenes", "zebra", "elephant"], "cdam_scenes_zebra_elephant.png"),
        (["cdam", "../../etc", "a/b\\c", "\x00x\u202e"], "cdam_-etc_a-b-c_-x.png"),
        (["cdam", "hot dog, hotdog", "größe"], "cdam_hot-dog-hotdog_größe.png"),
        (["y" * 500], "y" * 80 + ".png"),
    ],
)
def test_names_of_downloads_are_safe(parts, expected):
    assert _words.file_name(parts, "png") == expected


# ---- frame, gate, failures -----------------------------------------------------------------------


def test_a_page_outside_the_frame_shows_a_hint_only():
    at = AppTest.from_file(str(FOLDER / "compare.py")).run()
    assert "streamlit run app.py" in at.error[0].value
    assert not at.title
    assert not at.get("bidi_component")


def test_every_row_of_the_table_is_a_page():
    files = {row.file for row in (*_frame.PAGES, _frame.SERVER)}
    assert files == {path.name for path in FOLDER.glob("*.py") if not path.name.startswith("_")}
    assert len({row.url_path for row in _frame.PAGES}) == len(_frame.PAGES)


def test_the_gate_lets_a_few_in_and_tells_the_others(monkeypatch):
    one_slot(monkeypatch, patience=0.05)
    with _gate.slot(), pytest.raises(_gate.Busy), _gate.slot():
        pass
    with pytest.raises(ZeroDivisionError), _gate.slot():
        raise ZeroDivisionError
    with _gate.slot():
        pass  # given back after a failure, too


def failure(secret: str) -> Exception:
    try:
        raise ValueError(secret)
    except ValueError as error:
        return error


def test_the_log_gets_the_place_of_a_failure_and_not_its_message():
    error = failure("Mrs Jones")
    record = logging.LogRecord("x", 40, "f", 1, "failed", (), (ValueError, error, None))
    assert _errors.WithoutContent().filter(record)
    text = logging.Formatter().format(record)
    assert "Jones" not in text
    assert "ValueError" in text
    assert "test_pages.py" in text
    assert _errors.error_id(error) in text


def test_the_same_fault_has_the_same_id():
    assert len({_errors.error_id(failure(secret)) for secret in ("one", "two")}) == 1


# ---- house rules of the pages --------------------------------------------------------------------


def test_only_the_state_module_uses_streamlits_caches():
    users = {path.name for path in FOLDER.rglob("*.py") if "st.cache_" in path.read_text("utf-8")}
    assert users == {"_state.py"}


def test_pages_hold_no_markup_and_no_model_libraries():
    for path in FOLDER.rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"unsafe_allow_html|st\.html\(|</?(div|span|style|b|p)\b", text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & {"torch", "timm"}
