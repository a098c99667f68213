"""Concepts: what in a picture resembles a handful of examples that no classifier was trained on?"""

from dataclasses import replace

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core.concepts import (
    map_correlations,
    map_words,
    minus_mean_of_others,
    rank_in_bank,
    rank_words,
    similarity_of,
    without_one,
)
from pages import _concepts_desk as desk
from pages import (
    _concepts_edit,
    _concepts_keep,
    _concepts_panels,
    _concepts_samples,
    _concepts_viewer,
    _controls,
    _downloads,
    _exports,
    _links,
    _panels,
    _pickers,
    _state,
    _viewer,
)
from pages._concepts_panels import SIMILARITIES
from pages._concepts_viewer import Thumb
from pages._controls import VARIANTS
from pages._frame import guard
from pages._words import plain, signed

MAX_SHOWN = 4  # concepts whose maps stand side by side
STRONGEST = 3  # answers of the classifier that are named
ENDS = 4  # most and least similar sample pictures with maps
CHOICES = ("concepts.similarity", "concepts.less", "concepts.method", "concepts.way",
           "concepts.series", "concepts.rank")  # keys of widgets

HOW_TO_READ = """
**A concept** is the mean of what the model makes of a few example pictures: a point in the space of
its inner representation. Nothing is trained. The value under a map says how similar the picture is
to that point; the map says which patches make it more similar (orange with the standard colours)
and which less (blue).

**How good is it?** Leave one example out: if the concept turns, it hangs on that example. Five or
more examples that share little but the thing itself make a good concept: vary the background, crop
away the rest. The rank says whether the picture is really more similar than ordinary ones.

**What it does not tell**

- The model may not separate what you mean from what looks like it. The map then shows both; the
  other concept of a pair, A − B, helps to see it.
- A concept works with the model that it was built with, and with no other.
- A map is drawn even where the thing is absent: read the rank first.
"""


def main() -> None:
    guard()
    with st.sidebar:
        model_id = _pickers.pick_model()
        picture = pick_picture()
    _pickers.show_model_problem()
    try:
        model = _state.get_model(model_id)
    except cdam.BadCheckpoint as error:
        st.error(plain(str(error)))
        return
    if picture is None:
        st.title("Concepts", anchor=False)
        st.info("Open a picture of your own in the menu on the left to begin.")
        return
    prepared = _state.prepare(model_id, picture)
    if model.class_names:
        with st.sidebar:
            _pickers.show_predictions(model, prepared.logits)
    explore(model_id)
    with st.expander("What a concept is, and how to read its map", icon=":material/help:"):
        st.markdown(HOW_TO_READ)


# ---- the picture ---------------------------------------------------------------------------------


def pick_picture() -> _state.Picture | None:
    """Draw gallery and upload, and return the picture to look at."""
    scenes, picture = _concepts_samples.scenes(), current_picture()
    sample = picture.sample if picture else None
    if scenes:
        items = [{"id": name, "title": scene.title, "src": _concepts_edit.thumbnail(name)}
                 for name, scene in scenes.items()]  # fmt: skip
        chosen = next((name for name, scene in scenes.items() if scene is sample), None)
        _viewer.gallery(items, chosen, "concepts.gallery", _on_scene)
    if sample:
        st.caption(plain(sample.title) + (f" · {plain(sample.credits)}" if sample.credits else ""))
    _pickers._upload()
    if picture is not None and sample is None:
        st.button("Forget my picture", on_click=_state.forget_picture, width="stretch")
    return picture


def current_picture() -> _state.Picture | None:
    """The visitor's own picture, unless a scene was chosen since; at first, the first scene."""
    scenes, own = _concepts_samples.scenes(), st.session_state.get("picture")
    is_own = own is not None and own.sample is None
    if is_own and own.digest != st.session_state.get("concept_scene.instead_of"):
        return own
    chosen = st.session_state.get("concept_scene")
    name = chosen if chosen in scenes else next(iter(scenes), None)
    return _state.picture_of(scenes[name]) if name else None


def _on_scene() -> None:
    choose_scene(str(st.session_state["concepts.gallery"]["sample"]))


def choose_scene(name: str) -> None:
    """Look at a shipped scene."""
    own = st.session_state.get("picture")
    st.session_state["concept_scene"] = name
    st.session_state["concept_scene.instead_of"] = own.digest if own is not None else None
    st.session_state.pop("picture.problem", None)


# ---- the maps ------------------------------------------------------------------------------------


@st.fragment
def explore(model_id: str) -> None:
    """Everything that is redrawn without encoding again."""
    restore()
    picture, model = current_picture(), _state.get_model(model_id)
    prepared = _state.prepare(model_id, picture)
    question, maps = st.container(), st.container()
    cards = usable_cards(model)
    shown = pick_concepts(cards)
    similarity, less_mean, method, look = pick_look(prepared, cards)
    if shown:
        concepts = [desk.concept(model_id, cards[number]) for number in shown]
        others = [desk.concept(model_id, card) for card in cards.values()] if less_mean else []
        asked = [as_asked(concept, others, similarity) for concept in concepts]
        explanation = _state.explain_concepts(model_id, picture, in_order(asked), method)
        with question:
            ask([concept.name for concept in concepts])
        with maps:
            show_maps(prepared, explanation, look, scale_note(similarity, less_mean))
            tell(model_id, picture, concepts, asked, explanation)
            tell_classifier(model, prepared, [concept.name for concept in concepts])
    else:
        with question:
            start_here(prepared)
    if prepared.unfamiliar and picture.sample is None:
        st.caption("This picture is unlike what the model was trained on; its concepts may mean "
                   "little here.")  # fmt: skip
    make(model, model_id, picture, look)
    if shown:
        rank(model_id, asked[0], look)
        scale = _panels.shared_scale(explanation)
        files = _panels.Shown(
            "concepts", model, picture, prepared, explanation, explanation, look, scale
        )
        _downloads.offer_downloads(files)
        _links.write(picture, [], method)
        _exports.offer(files)
    _concepts_keep.show(model_id, model, cards)
    remember()


def restore() -> None:
    """Set widgets as they were before a visit to another page, where Streamlit forgets them."""
    _controls.restore()
    for key, value in st.session_state.get("concepts.kept", {}).items():
        st.session_state.setdefault(key, value)


def remember() -> None:
    """Keep what was chosen; the look is shared with the other pages."""
    _controls.remember()
    chosen = {key: st.session_state[key] for key in CHOICES if key in st.session_state}
    st.session_state["concepts.kept"] = st.session_state.get("concepts.kept", {}) | chosen


def usable_cards(model: cdam.VisionModel) -> dict[int, desk.Card]:
    """Number -> card, of every card that is a concept of this model."""
    return {
        card.id: card
        for card in desk.cards()
        if card.examples or (card.loaded and card.loaded.weights_sha256 == model.weights_sha256)
    }


def in_order(asked: list[cdam.Concept]) -> list[cdam.Concept | cdam.Contrast]:
    """What is explained: A, B, A − B, and the rest."""
    pair = [cdam.Contrast(asked[0], asked[1])] if len(asked) > 1 else []
    return [*asked[:2], *pair, *asked[2:]]


def start_here(prepared: _state.Prepared) -> None:
    """The page without a concept to show."""
    st.title("Show the model what you mean", anchor=False)
    st.info("Draw a box on a picture below: the map of your concept appears at once.")
    view = _panels.data_url(prepared.view)
    _concepts_viewer.thumbs([Thumb("", "What the model saw", (view,))], "Picture",
                            "concepts.alone", "list", "large")  # fmt: skip


def pick_concepts(cards: dict[int, desk.Card]) -> list[int]:
    """Numbers of the concepts whose maps are shown; at first two of them."""
    preset = st.session_state.get("concepts.shown")
    if preset is None:  # the first time, or back from another page
        preset = st.session_state.get("concepts.last_shown", list(cards)[:2])
    first = st.session_state.pop("concepts.first", None)
    if first is not None:
        preset = [first, *(number for number in preset if number != first)][:2]
    st.session_state["concepts.shown"] = [n for n in preset if n in cards][:MAX_SHOWN]
    shown = st.multiselect(
        "Concepts to show (A, B, …)", list(cards), key="concepts.shown",
        format_func=lambda number: cards[number].name, max_selections=MAX_SHOWN,
        placeholder="Choose up to four concepts",
    )
    st.session_state["concepts.last_shown"] = shown
    return shown


def pick_look(
    prepared: _state.Prepared, cards: dict[int, desk.Card]
) -> tuple[str, bool, str, _panels.Look]:
    """The quiet controls: kind of similarity, variant, and how the maps are drawn."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        similarity = st.selectbox(
            "Similarity", list(SIMILARITIES), format_func=lambda name: SIMILARITIES[name][0],
            key="concepts.similarity", width=140,
            help="  \n".join(f"**{label}**: {words}" for label, _, words in SIMILARITIES.values()),
        )
        _links.preset_method(VARIANTS, "concepts.method")
        method = _controls.pick_method(VARIANTS, "concepts.method", 165)
        palette = _controls.pick_palette(160)
        opacity = _controls.pick_opacity(140)
        with st.container(width=190, gap="xsmall"):
            less_mean = st.toggle(
                "Less what all share", key="concepts.less",
                disabled=similarity != "dot" or len(cards) < 2,
                help="Subtracts from each concept the mean of your other concepts, which removes "
                "what all pictures have in common. Dot product only.",
            ) and similarity == "dot" and len(cards) > 1
            outlines = _controls.pick_outlines(prepared)
    return similarity, less_mean, method, _panels.Look(palette, opacity, False, outlines)


def as_asked(
    concept: cdam.Concept, others: list[cdam.Concept], similarity: str
) -> cdam.Concept:
    """A concept with the chosen similarity, less the mean of the others where there are some."""
    if not others:
        return concept.using(similarity)
    return replace(minus_mean_of_others(concept, others), name=concept.name)


def scale_note(similarity: str, less_mean: bool) -> str:
    """What the printed scale says of its unit."""
    less = ", each concept less the mean of the others" if less_mean else ""
    return ("One scale for every map, the difference included. Score per patch, in units of the "
            f"{SIMILARITIES[similarity][1]}{less}.")  # fmt: skip


def ask(names: list[str]) -> None:
    """The question."""
    first, *others = (plain(name) for name in names)
    title = f"What looks like {first} rather than {others[0]}?" if others else (
        f"What looks like {first} here?"
    )
    st.title(title, anchor=False)


def show_maps(
    prepared: _state.Prepared, explanation: cdam.Explanation, look: _panels.Look, note: str
) -> None:
    scale = _panels.shared_scale(explanation)
    patch = st.session_state.get("concepts.patch", _panels.strongest_patch(explanation, 0))
    patch = tuple(min(p, side - 1) for p, side in zip(patch, explanation.grid, strict=True))
    data = _concepts_panels.viewer_data(prepared, explanation, look, patch, scale, note)
    _viewer.maps(data, key="concepts.viewer", on_patch=_on_patch)


def _on_patch() -> None:
    row, col = st.session_state["concepts.viewer"]["patch"]
    st.session_state["concepts.patch"] = (max(int(row), 0), max(int(col), 0))


# ---- in words ------------------------------------------------------------------------------------


def tell(
    model_id: str,
    picture: _state.Picture,
    concepts: list[cdam.Concept],
    asked: list[cdam.Concept],
    explanation: cdam.Explanation,
) -> None:
    """Per concept: is it there at all, and how far can its map be trusted?"""
    single = [i for i, t in enumerate(explanation.targets) if t["kind"] != "contrast"]
    lines = []
    for index, concept, one in zip(single, concepts, asked, strict=True):
        value = float(explanation.values[index])
        letter = _concepts_panels.letter_of(explanation, index)
        start = f"{letter}: " if letter else ""
        parts = [f"**{start}{plain(concept.name)}**, similarity "
                 f"{_concepts_panels.value_text(value)}."]  # fmt: skip
        if sentence := rank_sentence(model_id, one, value):
            parts.append(plain(sentence))
        if sentence := stability_sentence(model_id, picture, concept.using(one.similarity)):
            parts.append(plain(sentence))
        lines.append(" ".join(parts))
    st.markdown("  \n".join(lines))


def rank_sentence(model_id: str, concept: cdam.Concept, value: float) -> str:
    """Is the picture more similar than the model's known pictures? Empty where none are known."""
    bank = _state.get_model(model_id).bank
    return rank_words(rank_in_bank(concept, value, bank.embeddings())) if bank else ""


def stability_sentence(
    model_id: str, picture: _state.Picture, concept: cdam.Concept
) -> str:
    """What leaving one example out does to the map; empty where the examples are gone."""
    if concept.examples is None:
        return ""
    if len(concept.examples) < 2:
        return map_words([])
    maps = _state.explain_concepts(model_id, picture, [concept, *without_one(concept)])
    return map_words(map_correlations(maps.scores[0], maps.scores[1:], maps.content))


def tell_classifier(
    model: cdam.VisionModel, prepared: _state.Prepared, names: list[str]
) -> None:
    """For things that the classifier cannot name: what it says instead."""
    known = {name.casefold() for name in model.class_names}
    unknown = [plain(name) for name in names if name.casefold() not in known]
    if not known or not unknown:
        return
    order = np.argsort(-prepared.logits, kind="stable")[:STRONGEST]
    answers = ", ".join(f"{plain(model.class_names[c])} ({signed(prepared.logits[c])})"
                        for c in order)  # fmt: skip
    st.caption(
        f"The classifier has no output for {' or '.join(unknown[:2])}: it was never trained to "
        f"name {'them' if len(unknown) > 1 else 'it'}. Its strongest answers here, in logits: "
        f"{answers}."
    )


# ---- making, ranking -----------------------------------------------------------------------------


def make(
    model: cdam.VisionModel, model_id: str, picture: _state.Picture, look: _panels.Look
) -> None:
    """The cards and the editor."""
    st.subheader("Make a concept", anchor=False)
    _concepts_edit.show_cards(model)
    _concepts_edit.show_editor(model_id, picture, look)


def rank(model_id: str, asked: cdam.Concept, look: _panels.Look) -> None:
    """The sample pictures in the order of their similarity to concept A."""
    st.subheader("Sample pictures by similarity", anchor=False)
    name = plain(asked.name)
    if not st.toggle(f"Rank all sample pictures by similarity to {name}", key="concepts.rank"):
        return
    values = rank_values(model_id, asked)
    order = sorted(values, key=values.get, reverse=True)
    ends = [("Most similar", order[:ENDS]), ("Least similar", order[ENDS:][-ENDS:][::-1])]
    for title, names in ends:
        items = [ranked(model_id, asked, name, values[name], order.index(name) + 1, look)
                 for name in names]  # fmt: skip
        key = f"concepts.{title}"
        _concepts_viewer.thumbs(items, title, key, "buttons", "large", f"{title}, with maps",
                                on_choose=lambda key=key: choose_ranked(key))  # fmt: skip
    st.caption("Each of these maps has its own scale. A click opens the picture above.")
    with st.expander("The whole ranking"):
        titles = [_concepts_samples.scenes()[name].title for name in order]
        table = {"Place": list(range(1, len(order) + 1)), "Picture": titles,
                 "Similarity": [round(values[name], 4) for name in order]}
        st.dataframe(table, hide_index=True, key="concepts.ranking")


def choose_ranked(key: str) -> None:
    """Look at a picture of the ranking."""
    choose_scene(str(st.session_state[key]["choose"]))


def rank_values(model_id: str, concept: cdam.Concept) -> dict[str, float]:
    """Scene -> similarity."""
    scenes, rows = _concepts_samples.scenes(), []
    bar = st.progress(0.0, "Reading the sample pictures …")
    for done, scene in enumerate(scenes.values(), 1):
        picture = _state.picture_of(scene)
        rows.append(_state.latent(model_id, picture.image, picture.digest, True))
        bar.progress(done / len(scenes), "Reading the sample pictures …")
    bar.empty()
    return dict(zip(scenes, similarity_of(concept, np.stack(rows)).tolist(), strict=True))


def ranked(
    model_id: str, concept: cdam.Concept, name: str, value: float, place: int, look: _panels.Look
) -> Thumb:
    """One picture of the ranking with its map."""
    scene = _concepts_samples.scenes()[name]
    picture = _state.picture_of(scene)
    explanation = _state.explain_concepts(model_id, picture, [concept])
    prepared = _state.prepare(model_id, picture)
    text = _concepts_panels.value_text(value)
    return Thumb(name, scene.title, (_concepts_panels.small_map(prepared, explanation, 0, look),),
                 scene.title, f"{place}. · {text}", f"{place}. {scene.title}, {text}")  # fmt: skip


main()
