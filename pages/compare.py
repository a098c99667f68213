"""Compare classes: which parts of this picture speak for A rather than B?"""

from collections import Counter
from typing import Any

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core.maps import positive_share
from cdam_core.methods import METHODS
from cdam_core.pictures import DEFAULT_PALETTE, PALETTES
from pages import _downloads, _links, _panels, _pickers, _state, _viewer
from pages._frame import guard
from pages._words import decimals_for, percent, plain, signed

MAX_MORE = 4  # classes beside A and B
CLOSE = 0.005  # difference of logits that is printed as zero
LOOK = ("method", "palette", "opacity", "smooth", "outlines")  # keys of widgets
INSPECTED = 5  # classes on either side in the patch inspector
VARIANTS = [name for name in METHODS if name == "cdam" or name.endswith("_cdam")]
SIGNED_PALETTES = [name for name, palette in PALETTES.items() if palette.signed]

HOW_TO_READ = """
**The question.** A picture can hold evidence for several answers. Each map shows, patch by patch,
what speaks for one answer (orange with the standard colours) and what speaks against it (blue).
A patch without colour made no difference. **A − B** is the difference of the two maps: what speaks
for A *rather than* B.

**The scale.** All maps share the printed scale, so the same colour means the same score everywhere.
The score of a patch is in logits, the unit of the model's raw answer. The strongest 1 % of the
scores may lie beyond the scale; they get its last colour, and their numbers are shown in full.

**What the maps do not tell**

- They are no proof of cause. They say what the model's last block, its last step of reading, took
  from each patch; not what would happen to the answer if that part of the scene were changed.
- They show the last block only. What earlier blocks moved from one patch to another is shown where
  it arrived. The class token, which gathers the evidence for the answer, looks at the picture only
  once in the bundled model of everyday objects: in that block. In ordinary Vision Transformers it
  looks in every block, and the maps explain less of them.
- A strong colour is strong *on the printed scale*, which fits itself to each comparison. Read the
  numbers before you compare two pictures.
- A negative score means “speaks against this answer”, not “unimportant”.
- They explain the model, not the world. A wrong answer gets a map as clear as a right one.
"""


def main() -> None:
    guard()
    with st.sidebar:
        model_id = _pickers.pick_model()
        picture = _pickers.pick_picture()
    _pickers.show_model_problem()
    try:
        model = _state.get_model(model_id)
    except cdam.BadCheckpoint as error:
        st.error(plain(str(error)))
        return
    if picture is None:
        st.title("Compare classes", anchor=False)
        st.info("Open a picture of your own in the menu on the left to begin.")
        return
    prepared = _state.prepare(model_id, picture)
    warned = prepared.unfamiliar and picture.sample is None  # samples are known to fit
    if warned and not wants_maps_anyway(picture, prepared):
        return
    with st.sidebar:
        _pickers.show_predictions(model, prepared.logits)
    explore(model_id)
    with st.expander("How to read the maps, and what they do not tell", icon=":material/help:"):
        st.markdown(HOW_TO_READ)


# ---- a picture that the model does not know ------------------------------------------------------


def wants_maps_anyway(picture: _state.Picture, prepared: _state.Prepared) -> bool:
    """Warn instead of showing a confident map of nonsense; the visitor may insist."""
    key = f"anyway.{picture.digest[:16]}"
    if not st.session_state.get(key):
        st.title("Compare classes", anchor=False)
    st.warning(
        "This picture is unlike the drawn scenes that this model was trained on, "
        "so its answers and maps would mean little here.",
        icon=":material/warning:",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Use the model for photographs",
            type="primary",
            on_click=_pickers.try_model,
            args=(_state.PHOTO_MODEL,),
            help="A small Vision Transformer with ImageNet's 1000 classes. It is fetched from the "
            "model hub once, so the server needs a network.",
        )
        anyway = st.toggle("Show the maps anyway", key=key)
    if not anyway:
        st.image(prepared.view, caption="Your picture, as the model sees it", width=360)
    return anyway


# ---- the comparison ------------------------------------------------------------------------------


@st.fragment
def explore(model_id: str) -> None:
    """Everything that is redrawn without encoding again."""
    picture = _state.current_picture()
    model, prepared = _state.get_model(model_id), _state.prepare(model_id, picture)
    question = st.container()
    classes = pick_classes(model, prepared, f"{model_id}.{picture.digest[:16]}")
    maps = st.container()
    method, settings, look = pick_look(model, prepared)
    targets = (classes[0], classes[1], (classes[0], classes[1]), *classes[2:])
    explanation = _state.explain(model_id, picture, targets, method, settings)
    every = every_class(model_id, picture, settings)
    patch = current_patch(explanation, f"{model_id}.{picture.digest[:16]}")
    scale = _panels.shared_scale(explanation)
    with question:
        ask(explanation)
    with maps:
        data = _panels.viewer_data(prepared, explanation, every, look, patch, scale)
        _viewer.maps(data, key="viewer", on_patch=_on_patch)
        tell_shares(prepared, explanation)
        if picture.notes:
            st.caption(plain(f"On opening: {'; '.join(picture.notes)}."))
    inspect(explanation, every, patch, look, scale)
    _downloads.offer_downloads(
        _panels.Shown("compare", model, picture, prepared, explanation, explanation, look, scale)
    )
    _links.write(picture, [model.class_names[c] for c in classes], method)


def every_class(
    model_id: str, picture: _state.Picture, settings: dict[str, Any]
) -> cdam.Explanation:
    """The map of every class, by plain CDAM, which answers for all of them at once."""
    heads = {"heads": settings["heads"]} if "heads" in settings else {}
    return _state.explain(model_id, picture, None, "cdam", heads)


def pick_classes(model: cdam.VisionModel, prepared: _state.Prepared, token: str) -> list[int]:
    """A, B, and more classes; at first the two strongest answers."""
    a_key, b_key, more_key = (f"{name}.{token}" for name in ("a", "b", "more"))
    if a_key not in st.session_state:
        asked = _links.asked_classes(model)
        if not asked and st.session_state.get("classes", ("",))[0] == token:
            asked = st.session_state["classes"][1]  # back from another page
        strongest = [int(c) for c in np.argsort(-prepared.logits, kind="stable")[:3]]
        preset = [*asked, *(c for c in strongest if c not in asked)]
        st.session_state[a_key], st.session_state[b_key] = preset[:2]
        st.session_state[more_key] = asked[2 : 2 + MAX_MORE]
    st.session_state["pair"] = (st.session_state[a_key], st.session_state[b_key])
    options, names = list(range(len(model.class_names))), class_labels(model)
    columns = st.columns([1, 1, 1.4])
    shared = {"options": options, "format_func": names.__getitem__}
    keep_apart = {"on_change": _keep_apart, "args": (token,)}
    with columns[0]:
        a = st.selectbox("A: why this class …", key=a_key, **shared, **keep_apart)
    with columns[1]:
        b = st.selectbox("B: … rather than this one?", key=b_key, **shared, **keep_apart)
    with columns[2]:
        more = st.multiselect(
            "More classes to show", key=more_key, max_selections=MAX_MORE,
            placeholder="Add up to four classes", **shared,
        )
    chosen = [a, b, *(c for c in more if c not in (a, b))]
    st.session_state["classes"] = (token, chosen)
    return chosen


def _keep_apart(token: str) -> None:
    """Choosing B's class for A, or A's for B, swaps the two."""
    a_key, b_key = f"a.{token}", f"b.{token}"
    if st.session_state[a_key] == st.session_state[b_key]:
        old_a, old_b = st.session_state["pair"]
        st.session_state[a_key], st.session_state[b_key] = old_b, old_a


def class_labels(model: cdam.VisionModel) -> list[str]:
    """Names for lists; a name that several classes share gets its number."""
    names = model.class_names
    count = Counter(names)
    return [f"{name} (class {i})" if count[name] > 1 else name for i, name in enumerate(names)]


def pick_look(
    model: cdam.VisionModel, prepared: _state.Prepared
) -> tuple[str, dict[str, Any], _panels.Look]:
    """The quiet controls: variant, head, and how the maps are drawn."""
    _links.preset_method(VARIANTS, "method")
    restore({"palette": DEFAULT_PALETTE, "opacity": round(100 * _panels.Look.opacity)})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = st.selectbox(
            "Method", VARIANTS, format_func=lambda name: METHODS[name].label, key="method",
            help="  \n".join(f"**{METHODS[m].label}**: {METHODS[m].summary}" for m in VARIANTS),
            width=165,
        )
        heads = pick_heads(model, method)
        palette = st.selectbox(
            "Colours", SIGNED_PALETTES, format_func=lambda name: PALETTES[name].label,
            key="palette", width=175,
            help="Zero always has the neutral colour. The standard colours suit the colour-blind.",
        )
        opacity = st.slider("Opacity", 0, 100, step=5, format="%d %%", key="opacity", width=150)
        with st.container(width=130, gap="xsmall"):
            smooth = st.toggle(
                "Smooth", key="smooth",
                help="Blend neighbouring patches. For the eye only: the scores stay the same.",
            )
            outlines = prepared.outlines is not None and st.toggle(
                "Outlines", key="outlines", help="Draw the true borders of the objects."
            )
    look = {key: st.session_state[key] for key in LOOK if key in st.session_state}
    st.session_state["look"] = st.session_state.get("look", {}) | look
    settings = {} if heads is None else {"heads": (heads,)}
    return method, settings, _panels.Look(palette, opacity / 100, smooth, outlines)


def restore(defaults: dict[str, Any]) -> None:
    """Set widgets as they were before a visit to another page, where Streamlit forgets them."""
    for key, value in (defaults | st.session_state.get("look", {})).items():
        st.session_state.setdefault(key, value)


def pick_heads(model: cdam.VisionModel, method: str) -> int | None:
    """One attention head, or None for all of them."""
    known = any(setting.name == "heads" for setting in METHODS[method].settings)
    count = _state.n_heads(model) if known else 0
    label = st.selectbox(
        "Head",
        ["All", *(f"Head {head + 1}" for head in range(count))],
        key=f"head.{count}",
        disabled=not count,
        help="An attention head is one of several parallel readers in the last block. Their maps "
        "add up to the whole. Only plain CDAM can be taken apart like this.",
        width=105,
    )
    return None if label == "All" else int(label.removeprefix("Head ")) - 1


# ---- what is shown -------------------------------------------------------------------------------


def ask(explanation: cdam.Explanation) -> None:
    """The question and, in one line, the model's answer."""
    (a, b), (value_a, value_b) = explanation.labels[:2], explanation.values[:2]
    st.title(f"Why {plain(a)} rather than {plain(b)}?", anchor=False)
    winner, lead = (a, value_a - value_b) if value_a >= value_b else (b, value_b - value_a)
    st.markdown(
        f"Logit of {plain(a)}: {signed(value_a)}, of {plain(b)}: {signed(value_b)}. "
        + (
            f"The model leans towards **{plain(winner)}** by {lead:.2f}."
            if lead >= CLOSE
            else "The model finds both equally strong."
        ),
        help=_pickers.LOGIT,
    )


def _on_patch() -> None:
    """A click in the viewer moves the numbers beside the inspector, which hold the patch."""
    row, col = st.session_state["viewer"]["patch"]
    rows, cols = st.session_state["patch.grid"]
    st.session_state["patch.row"] = min(max(int(row), 0), rows - 1) + 1
    st.session_state["patch.col"] = min(max(int(col), 0), cols - 1) + 1


def current_patch(explanation: cdam.Explanation, token: str) -> tuple[int, int]:
    """(row, col) of the selected patch; at first the strongest one for A."""
    known, *patch = st.session_state.get("patch", ("", 0, 0))
    if known != token:
        patch = _panels.strongest_patch(explanation, 0)
    if known != token or "patch.row" not in st.session_state:
        st.session_state["patch.row"], st.session_state["patch.col"] = patch[0] + 1, patch[1] + 1
    row, col = st.session_state["patch.row"] - 1, st.session_state["patch.col"] - 1
    st.session_state["patch"], st.session_state["patch.grid"] = (token, row, col), explanation.grid
    return row, col


def tell_shares(
    prepared: _state.Prepared, explanation: cdam.Explanation
) -> None:
    """For a sample with known objects: where the positive evidence lies, in words."""
    sentences = [
        share_sentence(label, scores * explanation.content, prepared.regions)
        for label, target, scores in zip(
            explanation.labels, explanation.targets, explanation.scores, strict=True
        )
        if target["kind"] == "class" and prepared.regions
    ]
    if sentences:
        st.markdown("  \n".join(sentences))


def share_sentence(label: str, scores: np.ndarray, regions: dict[str, np.ndarray]) -> str:
    """E.g. "83 % of the positive evidence for zebra lies on the zebra, 4 % on the elephant."."""
    if not (scores > 0).any():
        return f"No patch speaks for {plain(label)}."
    own_first = sorted(regions, key=lambda name: name != label)
    places = [
        f"**{percent(positive_share(scores, regions[name]))}**{{}} on the {plain(name)}"
        for name in own_first
    ]
    present = label in regions
    whose = f"the positive evidence for {plain(label)}" if present else "its positive evidence"
    start = "" if present else f"{plain(label)} is not in this picture; "
    parts = [places[0].format(f" of {whose} lies"), *(place.format("") for place in places[1:])]
    return f"{start}{', '.join(parts)}."


def inspect(
    explanation: cdam.Explanation,
    every: cdam.Explanation,
    patch: tuple[int, int],
    look: _panels.Look,
    scale: float,
) -> None:
    """One patch, and the classes it speaks for and against most, out of all of them."""
    rows, cols = explanation.grid
    st.subheader("One patch, all classes", anchor=False)
    where, left, right = st.columns([1, 1.3, 1.3], gap="medium")
    with where, st.container(horizontal=True):
        st.number_input("Row", 1, rows, key="patch.row", width=95)
        st.number_input("Column", 1, cols, key="patch.col", width=95)
    if not explanation.content[patch]:
        left.info("This patch is padding around the picture. It is not counted.")
        return
    with where:
        st.caption("Click a patch in any map, or choose it here.")
    supported, opposed = _panels.patch_bars(every, patch, INSPECTED)
    full = max((abs(value) for _, value in supported + opposed), default=1.0)
    against, favour = _panels.bar_colours(look)
    decimals = decimals_for(scale)
    for column, title, found, colour in (
        (left, "Speaks most for", supported, favour),
        (right, "Speaks most against", opposed, against),
    ):
        items = [(name, value, signed(value, decimals)) for name, value in found]
        with column:
            _viewer.bars(title, items, full, key=f"bars.{title}", colour=colour,
                         none="No class at all.")
    if explanation.method != "cdam":
        st.caption("These values are plain CDAM's, which answers for all classes at once.")


main()
