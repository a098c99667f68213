"""Two models, one picture: the same target side by side, each map on its model's own scale.

A row per target, a column per model. Nothing of one model's numbers is mixed with the other's but
for the correlation of their maps, which does not depend on their sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core.maps import Lattice, lattice, map_correlation
from cdam_core.methods import METHODS
from pages import (
    _compare_files,
    _compare_patch,
    _compare_second,
    _compare_words,
    _concepts_viewer,
    _controls,
    _panels,
    _pickers,
    _state,
    _viewer,
)
from pages._compare_maps import has_difference, maps_of
from pages._concepts_viewer import Thumb
from pages._methods_jobs import Failed, Task
from pages._methods_tasks import Question
from pages._words import plain, signed

COLUMNS = (0.55, 1, 1)  # widths: words, map of the first model, of the second
PLACES = "pair.patches"  # (who is asked, patch of the first model, of the second)


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models and what it answers.

    Attributes:
        label: its name in the list.
        model_id, model, prepared: as for one model.
        lattice: where its patches lie in the picture.
        targets: per class that is asked for, this model's class, or None.
        nameless: positions of those that it does not know by name.
        found: the maps; what has to be done first; why there are none; None: no class is known.
        summed: whether pixels are to be summed to patches.
    """

    label: str
    model_id: str
    model: cdam.VisionModel
    prepared: _state.Prepared
    lattice: Lattice
    targets: tuple[int | None, ...]
    nameless: frozenset[int]
    found: cdam.Explanation | Task | Failed | None
    summed: bool

    @property
    def explanation(self) -> cdam.Explanation | None:
        """The maps, where there are any."""
        return self.found if isinstance(self.found, cdam.Explanation) else None

    @cached_property
    def drawn(self) -> cdam.Explanation:
        """The maps as they are drawn."""
        return _panels.per_patch(self.explanation) if self.summed else self.explanation

    @cached_property
    def patches(self) -> cdam.Explanation:
        """The maps by patch, whatever is drawn."""
        return _panels.per_patch(self.explanation)

    @cached_property
    def scale(self) -> float:
        """|score| at full colour of all maps of this model."""
        return _panels.shared_scale(self.drawn)

    def index_of(self, row: "Row") -> int | None:
        """Which of the maps belongs into a row."""
        if self.explanation is None:
            return None
        if row.position is None:
            wanted = "contrast"
            found = [i for i, t in enumerate(self.explanation.targets) if t["kind"] == wanted]
            return found[0] if found else None
        if not METHODS[self.explanation.method].class_specific:
            return 0
        target = self.targets[row.position]
        indices = [each.get("index") if each["kind"] == "class" else None
                   for each in self.explanation.targets]  # fmt: skip
        return None if target is None else indices.index(target)


@dataclass(frozen=True)
class Row:
    """One target: position among the classes that are asked for, or None for A - B."""

    badge: str
    name: str
    position: int | None


# ---- what is asked -------------------------------------------------------------------------------


def ask_side(
    model_id: str,
    label: str,
    picture: _state.Picture,
    targets: Sequence[int | None],
    nameless: Sequence[int],
    method: str,
    settings: dict[str, Any],
    summed: bool,
) -> Side:
    """Ask one model; arguments as the attributes of ``Side``."""
    model, prepared = _state.get_model(model_id), _state.prepare(model_id, picture)
    known = tuple(dict.fromkeys(target for target in targets if target is not None))
    if not METHODS[method].class_specific and not known:
        known = (0,)  # its map is the same for every class
    both = None not in targets[:2] and targets[0] != targets[1]
    question = Question(model_id, picture, known)
    found = maps_of(question, method, settings, both) if known else None
    original = (picture.image.height, picture.image.width)
    where = lattice(original, model.input_size, model.patch_size, prepared.encoding.grid)
    if not METHODS[method].class_specific:
        nameless = ()
    return Side(label, model_id, model, prepared, where, tuple(targets), frozenset(nameless),
                found, summed)  # fmt: skip


def tasks_of(sides: Sequence[Side]) -> list[Task]:
    """What has to be done before all maps are there."""
    return [side.found for side in sides if isinstance(side.found, Task)]


def rows_of(names: Sequence[str], method: str) -> list[Row]:
    """A, B, A - B where the method has one, and the rest; one row where classes make no difference.

    Args:
        names: of the classes that are asked for.
        method: id in ``METHODS``.
    """
    if not METHODS[method].class_specific:
        return [Row("", METHODS[method].label, 0)]
    rows = [Row("A", names[0], 0), Row("B", names[1], 1)]
    if has_difference(method):
        rows.append(Row("A − B", f"{names[0]} − {names[1]}", None))
    return rows + [Row("", name, i) for i, name in enumerate(names[2:], 2)]


# ---- the page ------------------------------------------------------------------------------------


def tell_answers(sides: Sequence[Side]) -> None:
    """What each model makes of the picture."""
    lines = []
    for side in sides:
        known = list(dict.fromkeys(target for target in side.targets if target is not None))
        best = int(np.argmax(side.prepared.logits))
        known += [] if best in known else [best]
        names, values = [side.model.class_names[i] for i in known], side.prepared.logits[known]
        lines.append(_compare_words.answer(side.label, names, values))
    st.markdown("  \n".join(lines), help=_pickers.LOGIT)
    st.caption(_compare_words.NOT_COMPARABLE)


def show(
    sides: tuple[Side, Side],
    picture: _state.Picture,
    rows: Sequence[Row],
    method: str,
    look: _panels.Look,
    token: str,
    maps: Any,
) -> None:
    """Maps, words, one place of the picture, and files.

    Args:
        sides: the two models.
        picture: the visitor's.
        rows: the targets.
        method: id in ``METHODS``.
        look: how maps are drawn.
        token: of model and picture.
        maps: where the maps go.
    """
    with maps:
        for side in sides:
            if isinstance(side.found, Failed):
                st.warning(f"{plain(side.label)}: {plain(side.found.message)}")
    if all(side.explanation is None for side in sides):
        with maps:
            _show_views(sides)
        return
    patches = places(sides, token)
    every = [_every(side, picture) for side in sides]
    with maps:
        for number, row in enumerate(rows):
            _show_row(row, number, sides, every, patches, look, token)
        _show_scales(sides, look)
        _show_shares(sides, rows)
        st.caption(_compare_words.about(method))
        _show_views(sides)
        if picture.notes:
            st.caption(plain(f"On opening: {'; '.join(picture.notes)}."))
    with st.container():
        _inspect(sides, every, patches, look)
        _compare_files.offer(sides, picture, look)
        with st.expander("How to read the maps, and what they do not tell",
                         icon=":material/help:"):  # fmt: skip
            st.markdown(_compare_words.how_to_read(method, two_models=True))


def _every(side: Side, picture: _state.Picture) -> cdam.Explanation | None:
    if side.explanation is None:
        return None
    return _compare_patch.every_class(side.model_id, picture, side.explanation)


def _show_row(
    row: Row,
    number: int,
    sides: tuple[Side, Side],
    every: Sequence[cdam.Explanation | None],
    patches: tuple[tuple[int, int], tuple[int, int]],
    look: _panels.Look,
    token: str,
) -> None:
    words, *cells = st.columns(COLUMNS, gap="medium")
    with words:
        st.markdown(" ".join(filter(None, (row.badge and f":gray-background[{row.badge}]",
                                           f"**{plain(row.name)}**"))))  # fmt: skip
        if row.position in sides[1].nameless:  # here, so that the maps stand on one line
            _offer_own(sides[1], row)
        st.caption(_alike(sides, row))
    for which, (cell, side) in enumerate(zip(cells, sides, strict=True)):
        with cell:
            index = side.index_of(row)
            if index is None:
                _say_why_not(side, row)
                continue
            key = f"pair.{which}.{number}"
            data = cell_data(side, index, look, patches[which], every[which])
            _viewer.maps(data, key=key, on_patch=partial(_on_patch, key, which, sides, token))


def cell_data(
    side: Side,
    index: int,
    look: _panels.Look,
    patch: tuple[int, int],
    every: cdam.Explanation | None,
) -> dict[str, Any]:
    """One map with its scale, for the viewer."""
    one, method = _panels.only(side.drawn, [index]), METHODS[side.drawn.method]
    label, note = one.labels[0], _compare_words.ONE_MAP
    if method.class_specific:
        what = "difference" if one.targets[0]["kind"] == "contrast" else \
            "logit" if one.units[0] == "logit" else "value"  # fmt: skip
        flat = "" if one.scores.any() else " · zero everywhere"
        note = f"{label}: {what} {signed(one.values[0])}{flat}"
    alt = _panels.alt_text(one, 0, f"{label} by {side.label}, {note}")
    bar = _panels.scale_bar(side.drawn, look, side.scale, "", ends=("", ""))
    bar = {name: text.strip() for name, text in bar.items()} | {"note": ""}
    return _panels.viewer_data(side.prepared, one, look, patch, side.scale,
                               [_panels.caption("", side.label, note, alt)], bar, every,
                               saw=False)  # fmt: skip


def _alike(sides: tuple[Side, Side], row: Row) -> str:
    """How alike the two maps of a row are, in words; empty where one is missing."""
    indices = [side.index_of(row) for side in sides]
    if None in indices:
        return ""
    maps = [side.patches.scores[index] for side, index in zip(sides, indices, strict=True)]
    contents = tuple(side.patches.content for side in sides)
    lattices = tuple(side.lattice for side in sides)
    value, count = map_correlation(*maps, contents, lattices)
    coarse = max(sides, key=lambda side: side.lattice.cell)
    return _compare_words.alike(value, count, coarse.patches.grid)


def _say_why_not(side: Side, row: Row) -> None:
    """What stands in the place of a map."""
    if isinstance(side.found, Task):
        st.caption(f"{plain(side.label)}: not computed yet.")
    elif isinstance(side.found, Failed):
        st.caption(f"{plain(side.label)}: no map.")
    elif row.position is None:
        st.caption(plain(f"{side.label}: A − B needs its own map of A and of B, of two different "
                         "classes."))  # fmt: skip


def _offer_own(side: Side, row: Row) -> None:
    """Where the second model does not know a class by name: say so, and let one be chosen."""
    key, labels = f"own.{side.model_id}.{row.name}", _controls.class_labels(side.model)
    st.session_state[key] = side.targets[row.position]
    st.selectbox(
        plain(_compare_words.no_such_class(side.label, row.name)), list(range(len(labels))),
        index=None, format_func=labels.__getitem__, key=key, placeholder="Choose one of its own",
        on_change=_compare_second.keep_own, args=(side.model_id, row.name, key),
    )  # fmt: skip


def _show_scales(sides: Sequence[Side], look: _panels.Look) -> None:
    """Once per model, what its scale means."""
    for side in sides:
        if side.explanation is not None:
            note = _compare_words.scale_note(side.drawn, "all maps of this model")
            note = _panels.scale_bar(side.drawn, look, side.scale, note)["note"]
            st.caption(f"**{plain(side.label)}.** {plain(note)}")


def _show_shares(sides: Sequence[Side], rows: Sequence[Row]) -> None:
    """For a sample with known objects: where each model's maps lie."""
    for side in sides:
        if side.explanation is not None:
            called = _as_the_first_says(side, rows)
            found = _compare_words.shares(side.prepared, called)
            if found:
                st.markdown("  \n".join([f"**{plain(side.label)}**", *found]))


def _as_the_first_says(side: Side, rows: Sequence[Row]) -> cdam.Explanation:
    """The maps under the first model's names, which known objects have: "Zebra" as "zebra"."""
    labels = list(side.explanation.labels)
    for row in rows:
        index = side.index_of(row)
        if index is not None and row.position is not None and row.position not in side.nameless:
            labels[index] = row.name
    return replace(side.explanation, labels=tuple(labels))


def _show_views(sides: Sequence[Side]) -> None:
    """What each model saw, without a map."""
    views = []
    for side in sides:
        (height, width), (rows, cols) = side.model.input_size, side.prepared.encoding.grid
        title = f"What {side.label} saw: {height} × {width} px, {rows} × {cols} patches"
        source = _panels.data_url(side.prepared.view)
        views.append(Thumb("", title, (source,), side.label, f"{rows} × {cols} patches"))
    what = "What each model saw"
    _concepts_viewer.thumbs(views, what, "pair.views", "list", "large", title=what)


# ---- one place of the picture --------------------------------------------------------------------


def places(sides: tuple[Side, Side], token: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The selected patch of each model, both at one place of the picture."""
    who, (first, second) = (token, sides[1].model_id), sides
    known = st.session_state.get("patch", ("",))[0]
    if first.explanation is not None:
        one = _compare_patch.current_patch(first.explanation, token)
    elif known == token and "patch.row" in st.session_state:
        one = (st.session_state["patch.row"] - 1, st.session_state["patch.col"] - 1)
    else:
        strongest = _panels.strongest_patch(second.explanation, 0)
        one = first.lattice.patch_at(*second.lattice.centre_of(strongest))
        _select(one, token)
    kept = st.session_state.get(PLACES)
    two = second.lattice.patch_at(*first.lattice.centre_of(one))
    if kept is not None and kept[:2] == (who, one):
        two = kept[2]  # it was clicked itself
    st.session_state[PLACES] = (who, one, two)
    return one, two


def _select(patch: tuple[int, int], token: str) -> None:
    st.session_state["patch"] = (token, *patch)
    st.session_state["patch.row"], st.session_state["patch.col"] = patch[0] + 1, patch[1] + 1


def _on_patch(key: str, which: int, sides: tuple[Side, Side], token: str) -> None:
    """A click in a map of either model moves both."""
    grid = sides[which].prepared.encoding.grid
    sent = zip(st.session_state[key]["patch"], grid, strict=True)
    clicked = tuple(min(max(int(at), 0), size - 1) for at, size in sent)
    other = 1 - which
    found = sides[other].lattice.patch_at(*sides[which].lattice.centre_of(clicked))
    pair = (clicked, found) if which == 0 else (found, clicked)
    _select(pair[0], token)
    st.session_state[PLACES] = ((token, sides[1].model_id), *pair)


def _inspect(
    sides: tuple[Side, Side],
    every: Sequence[cdam.Explanation | None],
    patches: tuple[tuple[int, int], tuple[int, int]],
    look: _panels.Look,
) -> None:
    """One place: what each model's patch there speaks for and against most."""
    st.subheader("One place, both models", anchor=False)
    rows, cols = sides[0].prepared.encoding.grid
    where, *columns = st.columns(COLUMNS, gap="medium")
    with where:
        with st.container(horizontal=True):
            st.number_input("Row", 1, rows, key="patch.row", width=95)
            st.number_input("Column", 1, cols, key="patch.col", width=95)
        hint = (f"Patches of {sides[0].label}. Click a patch in any map, or choose it here; the "
                "other model's patch is the one at the same place.")  # fmt: skip
        st.caption(plain(hint))
    for which, (column, side) in enumerate(zip(columns, sides, strict=True)):
        row, col = patches[which]
        with column:
            st.markdown(f"**{plain(side.label)}**, row {row + 1}, column {col + 1}")
            if side.explanation is None:
                st.caption("There is no map.")
            elif not side.explanation.content[row, col]:
                st.info("This patch is padding around the picture. It is not counted.")
            else:
                told = every[which]
                told = _compare_patch.classes_alone(side.patches) if told is None else told
                _compare_patch.draw_bars(told, (row, col), look, (column, column),
                                         key=f"pair.bars.{which}")  # fmt: skip
    shown = next(side.explanation for side in sides if side.explanation is not None)
    if shown.method in _controls.VARIANTS and shown.method != "cdam":
        st.caption("These values are plain CDAM's, which answers for all classes at once.")
