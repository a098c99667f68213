"""Benchmark: every method on many pictures, as the paper's tables and curves."""

import hashlib
import math

import streamlit as st

import cdam_core as cdam
from cdam_core.benchmarks.results import arrow
from cdam_core.benchmarks.runner import PAPERS_METHODS, PROTOCOLS, methods_for
from cdam_core.errors import BadData, BadRecord
from cdam_core.methods import METHODS
from pages import _benchmark_runs, _benchmark_show, _frame, _gate, _pickers, _state
from pages._attention_sets import folders
from pages._benchmark_runs import DONE, FAILED, RUNNING, STOPPED, WAITING, Request, Run, line
from pages._gate import Busy
from pages._words import plain

MAX_IMAGES = 1000
AT_FIRST = 20  # pictures
STEPS = (20, 50, 100)
BOXES = (20, 50, 100)
LOOK = 2.0  # seconds between two looks at a run at work
UPLOADED = "uploaded"

PURPOSE = (
    "One picture proves little. A benchmark asks every method the same on many pictures, while the "
    "model itself is the judge: parts of each picture are blurred, and the output is watched. What "
    "comes out are the paper's tables, with intervals."
)
STATES = {
    WAITING: ("waiting", ":material/hourglass_empty:"),
    RUNNING: ("at work", ":material/autorenew:"),
    DONE: ("finished", ":material/check_circle:"),
    STOPPED: ("stopped", ":material/pause_circle:"),
    FAILED: ("failed", ":material/error:"),
}
PROTOCOL_WORDS = {
    "default": "This program's settings, at the model's input size",
    "paper": "The paper's settings, at 224 pixels, noise chosen on as many held-out pictures",
}
HOW_TO_READ = """
- **Fidelity.** Parts are blurred, the most important first (MIF), then the least important first
  (LIF). A map that follows the model loses the output fast in the first case and keeps it in the
  second, so a large area between the curves, *LIF − MIF*, is good. The row *Random order* is what
  a map has to beat.
- **Box sensitivity.** How well the scores in random boxes foretell what blurring the box costs.
- **Class discrimination.** The same, less what the map of *another* class of the same picture
  reaches. Near zero, a method says the same whichever class you ask for.
- **Compactness.** The share of a map that is nearly zero. Easy to read is not the same as right.
- **Intervals** come from drawing whole pictures; the two classes of one picture are not
  independent. Where an interval of *less CDAM* leaves out zero, the methods differ on these
  pictures.

All of this judges a map by the model. A map can follow a model that is wrong.
"""


def main() -> None:
    _frame.guard()
    with st.sidebar:
        model_id = _pickers.pick_model()
    _pickers.show_model_problem()
    st.title("Which method holds on many pictures?", anchor=False)
    st.markdown(PURPOSE)
    try:
        model = _state.get_model(model_id)
        arrow()
    except (cdam.BadCheckpoint, BadData) as error:
        st.error(plain(str(error)))
        return
    runs = _benchmark_runs.runs()
    start, load = st.columns(2)
    with start.expander("Start a run", icon=":material/play_arrow:", expanded=not runs):
        ask(model, model_id)
    with load.expander("Load a run from a file", icon=":material/upload:"):
        upload()
    shown = pick(runs)
    if isinstance(shown, Run):
        show_run(shown, model, model_id)
    elif shown == UPLOADED:
        _benchmark_show.show(st.session_state["benchmark.upload"], model, model_id)
    with st.expander("How to read this, and what it does not tell", icon=":material/help:"):
        st.markdown(HOW_TO_READ)


# ---- starting ------------------------------------------------------------------------------------


def ask(model: cdam.VisionModel, model_id: str) -> None:
    """What is to be measured, and the button that puts it into the line."""
    source, _, side = model_id.rpartition("@")
    if _state.is_taught(model_id) or not model.class_names:
        st.info("Runs need a model with classes that is there for everybody; choose one of the "
                "list. A model that was taught here can be measured on the command line.")
        return
    data = {**{name: _data_label(name) for name in _benchmark_show.built_in()},
            **{f"folder:{name}": f"The folder {name}" for name in folders()}}
    if not data:
        st.info("No pictures with known classes are installed here.")
        return
    possible = methods_for(model)
    with st.form("benchmark.form", border=False):
        chosen_data = st.selectbox("Pictures", list(data), format_func=data.get,
                                   key="benchmark.data",
                                   help="A folder needs one folder per class, named as the model "
                                   "names its classes.")  # fmt: skip
        methods = st.multiselect("Methods", possible, key="benchmark.methods",
                                 default=[name for name in PAPERS_METHODS if name in possible],
                                 format_func=lambda name: METHODS[name].label)  # fmt: skip
        with st.container(horizontal=True):
            limit = st.number_input("Pictures at most", 1, MAX_IMAGES, AT_FIRST, width=150,
                                    key="benchmark.limit")  # fmt: skip
            steps = st.selectbox("Steps of the curves", STEPS, key="benchmark.steps", width=150)
            boxes = st.selectbox("Boxes per size", BOXES, key="benchmark.boxes", width=150)
        protocol = st.selectbox("Settings", list(PROTOCOLS), key="benchmark.protocol",
                                format_func=lambda name: PROTOCOL_WORDS.get(name, name))
        st.caption(f"Takes minutes for each picture on a small computer. {_keeping()}")
        is_asked = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:")
    if is_asked and not methods:
        st.warning("Choose at least one method.")
    elif is_asked:
        begin(Request(source or model_id, int(side) if source else None, chosen_data,
                      tuple(methods), int(limit), protocol, steps, boxes))  # fmt: skip


def _data_label(name: str) -> str:
    return {"scenes:single": "Sample scenes with one object each (drawn)",
            "scenes:pairs": "Sample scenes with two objects each (drawn)"}.get(name, name)


def _keeping() -> str:
    if _benchmark_runs.shared_root() is not None:
        return ("It goes on when you leave. Everyone who can open this app sees its results, and "
                "may stop it and let it go on.")
    return "It ends, and is forgotten, with your visit; take the ZIP home before."


def begin(request: Request) -> None:
    """A new run, in line."""
    try:
        run = _benchmark_runs.create(request)
    except OSError:
        st.error("The folder of runs cannot be written to; the administrator can tell why.")
        return
    if go_on(run):
        st.session_state["benchmark.next"] = run.name
        st.rerun()


def go_on(run: Run) -> bool:
    """Put a run into the line; whether there was a place."""
    try:
        line.add(run, _gate.owner())
    except Busy as busy:
        st.warning(str(busy))
    except OSError:
        st.error("The folder of this run cannot be written to; the administrator can tell why.")
    else:
        return True
    return False


# ---- loading -------------------------------------------------------------------------------------


def upload() -> None:
    """Take the ZIP of a run; the server's copy of the file is dropped in the same run."""
    file = st.file_uploader(
        "The ZIP of a run", type=["zip"],
        key=f"benchmark.file.{st.session_state.get('benchmark.files', 0)}",
        help="With results.parquet and run.json in it, as this page and the command write them. It "
        "is kept in memory for this visit only.",
    )
    if file is not None:
        st.session_state.pop("benchmark.problem", None)
        try:
            with _gate.slot():
                content = file.getvalue()
                token = "upload-" + hashlib.sha256(content).hexdigest()
                st.session_state["benchmark.upload"] = _benchmark_show.of_upload(content, token)
            st.session_state["benchmark.next"] = UPLOADED
        except BadRecord as error:
            st.session_state["benchmark.problem"] = str(error)
        finally:
            _state.drop_raw_file(file)
            st.session_state["benchmark.files"] = st.session_state.get("benchmark.files", 0) + 1
        st.rerun()
    if problem := st.session_state.get("benchmark.problem"):
        st.error(plain(problem))


# ---- choosing ------------------------------------------------------------------------------------


def pick(runs: list[Run]) -> Run | str | None:
    """The run that is looked at."""
    every: dict[str, Run | str] = {run.name: run for run in runs}
    if "benchmark.upload" in st.session_state:
        every[UPLOADED] = UPLOADED
    if not every:
        st.info("There are no runs here yet.")
        return None
    wanted = st.session_state.pop("benchmark.next", None) or st.session_state.get("benchmark.kept")
    if wanted in every:
        st.session_state["benchmark.shown"] = wanted
    labels = {name: _label(run) for name, run in every.items()}
    name = st.selectbox("Run", list(every), key="benchmark.shown", format_func=labels.get)
    st.session_state["benchmark.kept"] = name
    return every.get(name)


def _label(run: Run | str) -> str:
    if run == UPLOADED:
        return "The run that you have loaded"
    words = STATES[_benchmark_runs.state(run)][0]
    asked = run.request
    if asked is None:
        is_done = _benchmark_runs.state(run) == DONE
        return f"{run.name} · {words if is_done else 'from the command line, not finished'}"
    count = len(asked.methods)
    methods = f"{count} method{'s' if count > 1 else ''}"
    return (f"{asked.began} · {asked.model} on {asked.data_label} · {methods} · "
            f"{asked.limit} pictures at most · {words}")  # fmt: skip


# ---- one run -------------------------------------------------------------------------------------


def show_run(run: Run, model: cdam.VisionModel, model_id: str) -> None:
    """How far it is, and what it found."""
    state = _benchmark_runs.state(run)
    if state in (RUNNING, WAITING):
        st.fragment(watch, run_every=LOOK)(run, state)
    else:
        show_end(run, state)
    if not (run.folder / _benchmark_show.reading.ROWS_FILE).is_file():
        return
    try:
        shown = _benchmark_show.of_folder(run.folder)
    except BadRecord as error:
        st.error(plain(str(error)))
        return
    _benchmark_show.show(shown, model, model_id)


def watch(run: Run, known: str) -> None:
    """Progress of a run that is at work or in line, looked at from time to time."""
    state = _benchmark_runs.state(run)
    if state != known:
        st.rerun()
    words, icon = STATES[state]
    with st.container(horizontal=True, vertical_alignment="center"):
        if state == WAITING:
            place = line.position(run)
            where = f", {_gate.waiting_words(place)}" if place else ""
            st.markdown(f"{icon} In line{where}.")
        else:
            found = _benchmark_runs.progress(run)
            st.progress(min(1.0, found.done / found.total) if found.total else 0.0,
                        text=f"{words.capitalize()}: {progress_text(found)}")  # fmt: skip
        if st.button("Stop", key="benchmark.stop", icon=":material/stop:", width=100,
                     help="What is done is kept, and the run can go on later."):  # fmt: skip
            _benchmark_runs.stop(run)
            st.toast("It ends after the pictures in work.")


def progress_text(found: _benchmark_runs.Progress) -> str:
    """E.g. "7 of 20 pictures, about 3 min left"."""
    if not found.total:
        return "loading the model and the list of pictures"
    left = "" if found.seconds_left is None else f", about {duration(found.seconds_left)} left"
    which = "held-out pictures to choose the noise on" if found.is_tuning else "pictures"
    return f"{found.done} of {found.total} {which}{left}"


def duration(seconds: float) -> str:
    """In the largest fitting unit."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_end(run: Run, state: str) -> None:
    """A run that nobody works on."""
    if state == DONE:
        return
    found = _benchmark_runs.progress(run)
    so_far = f" {found.done} of {found.total} pictures are done." if found.total else ""
    if run.request is None:
        st.info(f"This run is not finished.{so_far} It was started on the command line: it may be "
                "at work there, or the same command goes on with it.")  # fmt: skip
        return
    if state == FAILED:
        st.error(f"This run failed: {plain(_benchmark_runs.why_failed(run))}")
    else:
        st.warning(f"This run was stopped, or the server was started anew meanwhile.{so_far} What "
                   "is done is kept.", icon=STATES[STOPPED][1])  # fmt: skip
    if st.button("Go on", key="benchmark.go_on", icon=":material/resume:") and go_on(run):
        st.rerun()


main()
