"""Which patches are plotted: those of the current picture, or of a set, read with progress."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import streamlit as st

import cdam_core as cdam
from cdam_core import mechanism
from cdam_core.mechanism import Patches
from pages import _attention_sets, _methods_jobs, _pickers, _state
from pages._attention_points import View
from pages._attention_question import Question, once
from pages._attention_sets import PictureSet
from pages._controls import VARIANTS
from pages._gate import slot
from pages._methods_jobs import Failed, Task
from pages._words import plain

CURRENT, SAMPLES, OWN, FOLDER = "current", "samples", "own", "folder:"
ANSWERS = {"own": "Each picture's strongest answer", "one": "{} in all of them"}


def pick_set() -> str:
    """Whose patches are plotted."""
    names = {CURRENT: "This picture", SAMPLES: "All samples", OWN: "A set of my own"}
    names |= {f"{FOLDER}{label}": f"Folder {label}" for label in _attention_sets.folders()}
    if st.session_state.get("attention.set") not in names:
        st.session_state.pop("attention.set", None)
    return st.selectbox("Patches of", list(names), format_func=names.get, key="attention.set",
                        width=165)  # fmt: skip


def pictures_to_plot(
    chosen: str, question: Question, view: View
) -> tuple[PictureSet, tuple[Patches, ...]] | None:
    """The set and its patches; None while there are none."""
    if chosen == CURRENT:
        needed = ("cdam", view.needs) if view.needs else ("cdam",)
        return this_picture(question), (current_patches(question, needed),)
    which = _set_of(chosen)
    if which is None:
        return None
    target, methods = _pool_question(question, view)
    pool = _pooled(question, which, target, methods)
    if pool is None:
        return None
    _tell_left_out(which, pool)
    return (which, pool.pictures) if pool.pictures else None


# ---- the current picture -------------------------------------------------------------------------


def this_picture(question: Question) -> PictureSet:
    """The set that holds the current picture alone."""
    picture = question.picture
    title = picture.sample.title if picture.sample else "Your picture"
    return PictureSet(question.set_id, "this picture", (title,), (lambda: picture.image,))


def current_patches(question: Question, methods: Sequence[str]) -> Patches:
    """The current picture's patches, with the scores of these variants."""
    patches = once("patches", question.key, lambda: _read(question))
    scores = {
        name: question.explain(name).scores[0].ravel()[patches.index]
        for name in methods
        if name not in patches.scores
    }
    return replace(patches, scores={**patches.scores, **scores})


def _read(question: Question) -> Patches:
    model, encoding = question.model, question.prepared.encoding
    with slot():
        return mechanism.patches_of(model, encoding, question.target)


# ---- a set ---------------------------------------------------------------------------------------


def _set_of(chosen: str) -> PictureSet | None:
    """The chosen set; for one's own, the place to open it."""
    if chosen == SAMPLES:
        return _attention_sets.sample_set()
    if chosen == OWN:
        _open_own()
        return _attention_sets.own_set() if _attention_sets.own_pictures() else None
    try:
        return _attention_sets.folder_set(chosen.removeprefix(FOLDER))
    except cdam.BadImage as error:
        st.info(plain(str(error)))
        return None


def _open_own() -> None:
    """Upload pictures; they stay in memory, for this visit."""
    count = len(_attention_sets.own_pictures())
    number = st.session_state.setdefault("attention.uploads", 0)
    words = f"{count} so far" if count else f"up to {_attention_sets.MAX_PICTURES}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        uploaded = st.file_uploader(
            f"Open the pictures of the set ({words})", type=_pickers.FILE_TYPES,
            accept_multiple_files=True, key=f"attention.upload.{number}",
            help="They are decoded in memory, and the files are dropped at once. Nothing is "
            "stored.",
        )  # fmt: skip
        if count:
            st.button("Forget this set", on_click=_attention_sets.forget)
    if uploaded:
        bar = st.progress(0.0, "Opening …")
        problems = _attention_sets.take_uploads(
            uploaded, lambda done, total: bar.progress(done / total, f"Opening {done} of {total}")
        )
        st.session_state["attention.problems"] = problems
        st.session_state["attention.uploads"] = number + 1  # a new one is empty
        st.rerun()
    if problems := st.session_state.get("attention.problems"):
        st.warning("  \n".join(plain(problem) for problem in problems[:5]) + (
            f"  \nAnd {len(problems) - 5} more." if len(problems) > 5 else ""))  # fmt: skip


def _pool_question(question: Question, view: View) -> tuple[int | None, tuple[str, ...]]:
    """Which class all pictures are asked about (None: each its strongest), and which variants."""
    label = plain(question.model.class_names[question.target])
    with st.container(horizontal=True, vertical_alignment="center"):
        ask = st.segmented_control(
            "Which answer", list(ANSWERS), key="attention.ask", default="own", required=True,
            format_func=lambda name: ANSWERS[name].format(label), label_visibility="collapsed",
        )  # fmt: skip
        smooth = st.toggle("Smooth CDAM, too", key="attention.smooth",
                           help="It takes about as long as everything else together.")  # fmt: skip
    with_smooth = smooth or view.needs == "smooth_cdam"
    methods = tuple(name for name in VARIANTS if with_smooth or name != "smooth_cdam")
    return (None if ask == "own" else question.target), methods


def asks_one_class() -> bool:
    """Whether all pictures of a set are asked about the class chosen above."""
    return st.session_state.get("attention.ask") == "one"


def _pooled(
    question: Question, which: PictureSet, target: int | None, methods: tuple[str, ...]
) -> mechanism.Pool | None:
    """The patches of the set, computed with progress; None where cancelled or failed."""
    model = question.model

    def work(on_step: Callable[[int, int], None]) -> mechanism.Pool:
        return mechanism.pool(model, which.sources, target, methods, on_step=on_step)

    key = ("pool", question.model_id, which.id, target, methods)
    task = Task(key, f"reading {len(which.sources)} pictures", work)
    _methods_jobs.run("attention-pool", [task], st.empty(), lambda _: None)
    found = _state.recall(key)
    if isinstance(found, Failed):
        st.error(plain(found.message))
        return None
    return found


def _tell_left_out(which: PictureSet, pool: mechanism.Pool) -> None:
    if pool.left_out:
        names = ", ".join(which.titles[number] for number, _ in pool.left_out[:5])
        more = f" and {len(pool.left_out) - 5} more" if len(pool.left_out) > 5 else ""
        st.warning(f"{len(pool.left_out)} of {len(which.titles)} pictures could not be read: "
                   f"{plain(names)}{more}.")  # fmt: skip
    if which.note:
        st.caption(plain(which.note))
