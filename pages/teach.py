"""Teach it: classes of one's own from a few example pictures, usable at once in the comparison."""

from functools import partial

import streamlit as st

import cdam_core as cdam
from cdam_core.head import require_linear_place
from pages import _frame, _methods_jobs, _pickers, _state, _teach_edit, _teach_head
from pages import _teach_desk as desk
from pages._frame import guard
from pages._methods_jobs import Failed, Task
from pages._teach_head import Outcome
from pages._words import file_name, plain

PURPOSE = (
    "Give a few example pictures of each class; the model learns in seconds to tell them apart, "
    "and Compare classes shows what speaks for one rather than the other."
)
LIMITS = """
**What is taught.** One linear layer, the head, on top of what the model makes of a picture. The
model itself stays as it is: what it does not see in pictures, no head can find there.

**What the number says.** How often such a head is right on pictures *like your examples*. The
interval is wide with few pictures; ten per class are a start, not a proof.

**What it does not say**

- Whether it holds for other pictures: of another camera, clinic, background or season.
- Whether the head uses what you mean. If all pictures of one class share a background, a scale bar
  or a caption, the head may have learned that. The maps in Compare classes help to see it.
- What a picture of none of your classes is. The head always answers with one of them.
- Anything about patients. It is made to explore models, and fit for no decision.

Pictures that look alike on both sides of the cross-validation (frames of one film, slices of one
scan) make the number too good. Give one picture of each.
"""


def main() -> None:
    guard()
    with st.sidebar:
        model_id = _pickers.pick_model()
    _pickers.show_model_problem()
    st.title("Teach it your own classes", anchor=False)
    st.markdown(PURPOSE)
    try:
        require_linear_place(_state.get_model(model_id))
    except cdam.BadCheckpoint as error:
        st.error(plain(str(error)))
        return
    _teach_edit.show_cards()
    _teach_edit.show_editor()
    teach(model_id)
    keep_or_forget()
    with st.expander("What a head of few examples can and cannot tell", icon=":material/help:"):
        st.markdown(LIMITS)


def teach(model_id: str) -> None:
    """The button, its progress, and what came of it."""
    if missing := desk.missing():
        st.button("Teach", type="primary", disabled=True, key="teach.start")
        st.caption(plain(" ".join(missing)))
        return
    task = _teach_head.task(model_id)
    result = _teach_head.known(task)
    if not isinstance(result, Outcome):
        st.button("Teach", type="primary", on_click=_start, args=(task,), key="teach.start")
        count = sum(len(card.examples) for card in desk.cards())
        st.caption(f"{count} pictures of {len(desk.cards())} classes.")
    if isinstance(result, Outcome):
        show(result)
    elif isinstance(result, Failed):
        st.warning(plain(result.message))
    elif _is_asked(task) and _methods_jobs.run("teach", [task], st.empty(), _teach_head.settle):
        st.rerun()


def _is_asked(task: Task) -> bool:
    return st.session_state.get("teach.asked") == task.key


def _start(task: Task) -> None:
    st.session_state["teach.asked"] = task.key
    _state.remembered().pop(task.key, None)  # of a failure, to try again
    st.session_state["stopped"] = st.session_state.get("stopped", frozenset()) - {task.key}


def show(outcome: Outcome) -> None:
    """How good it is, and where to go from here."""
    st.subheader("It can be asked", anchor=False)
    st.markdown(_teach_head.result_words(outcome), help=_teach_head.HOW_JUDGED)
    if not _teach_head.is_beyond_chance(outcome):
        st.warning("This may be no better than always giving the same answer: the interval reaches "
                   "down to it. More pictures, or clearer ones, are needed.",
                   icon=":material/warning:")  # fmt: skip
    st.markdown("\n".join(f"- {line}" for line in _teach_head.confusion_words(outcome)))
    if words := _teach_head.cautions(outcome):
        st.caption("  \n".join(words))
    model = _state.get_model(outcome.model_id)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Open in Compare classes", type="primary", on_click=_open, key="teach.compare",
                  args=(outcome.model_id,), icon=":material/compare:")  # fmt: skip
        st.download_button(
            "Download the model", partial(_teach_head.file_of, outcome, model),
            file_name(["taught", *list(outcome.counts)[:4],
                       *(["simulated"] if model.simulated else [])], "safetensors"),
            "application/octet-stream", on_click="ignore", icon=":material/download:",
            key="teach.download",
        )  # fmt: skip
    st.caption("One file with its card, for `cdam_core.load_model(\"file.safetensors\")`, or for "
               "the folder of models of a server. It holds no pictures; the names of your classes "
               "are in it. Without it, the model is gone with this visit.")  # fmt: skip


def _open(model_id: str) -> None:
    _pickers.try_model(model_id)
    st.session_state["teach.leave"] = True


def keep_or_forget() -> None:
    """What is kept for this visit, and the way to forget it."""
    if not any(card.examples for card in desk.cards()) and not _state.taught():
        return
    st.button("Forget my classes, pictures and models", on_click=desk.forget, key="teach.forget",
              icon=":material/delete_sweep:",
              help="What you taught is in this visit's memory alone, and gone when it ends.")


def leave() -> None:
    """Go to the comparison, where that was asked for."""
    if st.session_state.pop("teach.leave", False):
        st.switch_page(_frame.navigation_pages()[1])


leave()
main()
