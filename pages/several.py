"""Several pictures: the same question for each, one file with everything to take home."""

import streamlit as st

import cdam_core as cdam
from cdam_core.methods import METHODS
from pages import _controls, _methods_jobs, _pickers, _several, _state
from pages._frame import guard
from pages._methods_jobs import Failed
from pages._several import Answer, Item
from pages._words import file_name, plain, signed

MAX_CLASSES = 4
PURPOSE = (
    "Ask the same question of up to {count} pictures of your own. Each gets a ZIP with its maps, "
    "scores and settings, that anyone with the picture can check; one table holds the numbers of "
    "all."
)


def main() -> None:
    guard()
    with st.sidebar:
        model_id = _pickers.pick_model()
    _pickers.show_model_problem()
    st.title("Several pictures, one question", anchor=False)
    st.markdown(PURPOSE.format(count=_several.MAX_PICTURES))
    try:
        model = _state.get_model(model_id)
    except cdam.BadCheckpoint as error:
        st.error(plain(str(error)))
        return
    if not model.class_names:
        st.info("This model has no classes to ask for; choose another one.")
        return
    upload()
    items = _several.items()
    if not items:
        return
    st.markdown(f"{len(items)} {'picture' if len(items) == 1 else 'pictures'} here, for this visit "
                "only.")  # fmt: skip
    targets, method = ask(model, model_id)
    with st.container(horizontal=True):
        st.button("Explain all", type="primary", key="several.start", on_click=_start,
                  args=(model_id, targets, method))  # fmt: skip
        st.button("Forget these pictures", on_click=_several.forget, key="several.forget",
                  icon=":material/delete_sweep:")  # fmt: skip
    asked = st.session_state.get("several.asked")
    if asked is not None and asked[0] == model_id:
        answer(items, *asked)


def upload() -> None:
    """Take files; the server's copies are dropped in the same run."""
    uploaded = st.file_uploader(
        "Open your pictures", type=_pickers.FILE_TYPES, accept_multiple_files=True,
        key=f"several.upload.{st.session_state.get('several.uploads', 0)}",
        help="They are kept in memory for this visit, decoded one after the other, and stored "
        "nowhere. Their names appear in your table only.",
    )  # fmt: skip
    if uploaded:
        st.session_state["several.problem"] = _several.take(uploaded)
        st.rerun()
    if problem := st.session_state.get("several.problem"):
        st.warning(plain(problem))


def ask(model: cdam.VisionModel, model_id: str) -> tuple[tuple[int, ...], str]:
    """Classes and method for all pictures."""
    names = _controls.class_labels(model)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        targets = st.multiselect(
            "Classes", range(len(names)), format_func=names.__getitem__, width=420,
            max_selections=MAX_CLASSES, key=f"several.classes.{model_id}",
            placeholder="The two strongest of each picture",
        )  # fmt: skip
        method = _controls.pick_method(
            _controls.VARIANTS_FIRST, "several.method", 250, _controls.method_with_cost(model_id)
        )
    return tuple(targets), method


def _start(model_id: str, targets: tuple[int, ...], method: str) -> None:
    """Begin, or go on after Cancel; the answers to another question make room."""
    asked = (model_id, targets, method)
    if st.session_state.get("several.asked") != asked:
        _state.forget_results("several")
    st.session_state["several.asked"] = asked
    stopped = st.session_state.get("stopped", frozenset())
    st.session_state["stopped"] = frozenset(key for key in stopped if key[0] != "several")


def answer(items: list[Item], model_id: str, targets: tuple[int, ...], method: str) -> None:
    """Work through the pictures, and show what is there."""
    tasks = [_several.task(model_id, item, number, targets, method)
             for number, item in enumerate(items, 1)]  # fmt: skip
    progress, results = st.empty(), st.empty()
    show(items, tasks, results)
    if _methods_jobs.run("several", tasks, progress, lambda _: show(items, tasks, results)):
        st.rerun()
    found = known(items, tasks)
    if any(isinstance(result, Answer) for _, result in found):
        offer(found, model_id, method)


def known(items: list[Item], tasks: list) -> list[tuple[Item, Answer | Failed]]:
    """What is there so far."""
    pairs = ((item, _state.recall(task.key)) for item, task in zip(items, tasks, strict=True))
    return [(item, result) for item, result in pairs if result is not None]


def show(items: list[Item], tasks: list, place) -> None:
    """A line per picture and class."""
    found = known(items, tasks)
    if not found:
        return
    lines = ["| Picture | Answer | Value | For | Against | Strongest patch |",
             "|:--|:--|--:|--:|--:|:--|"]  # fmt: skip
    for item, result in found:
        lines += _lines(items.index(item) + 1, result)
    place.markdown("\n".join(lines))


def _lines(number: int, result: Answer | Failed) -> list[str]:
    if isinstance(result, Failed):
        return [f"| {number} | {plain(result.message)} | | | | |"]
    note = " (unlike what the model was trained on)" if result.unfamiliar else ""
    return [
        f"| {number}{note} | {plain(row['target'])} | {signed(float(row['value']))} | "
        f"{signed(float(row['sum_for']))} | {signed(float(row['sum_against']))} | "
        f"row {row['strongest_row']}, column {row['strongest_col']} |"
        for row in result.rows
    ]


def offer(found: list[tuple[Item, Answer | Failed]], model_id: str, method: str) -> None:
    """One file with everything, and the table alone."""
    model = _state.get_model(model_id)
    parts = ["cdam_several", model_id.removeprefix("timm:"), method,
             *(["simulated"] if model.simulated else [])]  # fmt: skip
    with st.container(horizontal=True):
        st.download_button(
            "All of it, to be checked (ZIP)", lambda: _several.together(found),
            file_name(parts, "zip"), "application/zip", on_click="ignore",
            icon=":material/download:", key="several.download.zip",
        )  # fmt: skip
        st.download_button(
            "Table (CSV)", lambda: _several.table(found), file_name(parts, "csv"), "text/csv",
            on_click="ignore", icon=":material/download:", key="several.download.csv",
        )  # fmt: skip
    st.caption(f"{METHODS[method].label}; every map is drawn on its own printed scale. “For” and "
               "“against” are sums over the picture, in logits.")  # fmt: skip


main()
