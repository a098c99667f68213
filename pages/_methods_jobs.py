"""Slow questions, one after the other: watched, cancellable, and fair to other visitors.

Each is answered in a thread of its own, while the page only watches and moves the progress bar. So
a click is served at once, the gate is handed on between the batches of long work, and a question
that still stands after the click goes on where it was. Work that nobody watches any more (Cancel
was pressed, the page was left, the tab closed) ends at its next batch.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

import cdam_core as cdam
from pages import _gate, _state
from pages._errors import error_id
from pages._gate import Busy

TICK = 0.1  # seconds between two looks at a running job
UNWATCHED = 5.0  # seconds without a look after which a job gives up

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """One slow question.

    Attributes:
        key: under which ``_state`` keeps the answer.
        label: shown while it is computed.
        work: computes it; takes the callback for its progress.
    """

    key: Hashable
    label: str
    work: Callable[[OnStep], Any]


@dataclass(frozen=True)
class Failed:
    """An answer that could not be had; the message is for the visitor."""

    message: str


class GivenUp(Exception):
    """Nobody waits for this job any more."""


class Job:
    """A task that is being computed in its own thread.

    Args:
        task: what to compute.
        after: a job of the same visitor that was stopped and may still be at its last batch.

    Attributes:
        key: of the task.
        finished: set when ``result`` or ``error`` is there.
        done, total: progress, where the work tells; total is 0 before that.
        result: the answer.
        error: what went wrong instead.
        stopped: whether it was told to end.
    """

    def __init__(self, task: Task, after: "Job | None" = None):
        self.key = task.key
        self.finished = threading.Event()
        self.done = self.total = 0
        self.result: Any = None
        self.error: Exception | None = None
        self.started = self._seen = time.monotonic()
        self.stopped = False
        self._turn = _gate.gate.turn(_gate.owner(), self._check)
        threading.Thread(target=self._run, args=(task.work, after), daemon=True).start()

    @property
    def position(self) -> int:
        """Place in the line at the gate, 1 is next; 0 when it is at work."""
        return self._turn.position

    def wait(self) -> bool:
        """Look at it for one tick; True when it is finished."""
        self._seen = time.monotonic()
        return self.finished.wait(TICK)

    def stop(self) -> None:
        """End at the next batch."""
        self.stopped = True

    def _run(self, work: Callable[[OnStep], Any], after: "Job | None") -> None:
        try:
            if after is not None:  # being impatient with oneself helps nobody
                after.finished.wait()
            self._check()
            with self._turn:
                self._check()
                self.result = work(self._on_step)
        except Exception as error:
            self.error = error
        finally:
            self.finished.set()

    def _on_step(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self._turn.step()  # whoever waits at the gate may go first
        self._check()

    def _check(self) -> None:
        if self.stopped or time.monotonic() - self._seen > UNWATCHED:
            raise GivenUp


def run(
    name: str, tasks: Sequence[Task], place: Any, on_result: Callable[[Task], None]
) -> bool:
    """Answer the tasks that are neither answered nor stopped, and show each as it comes.

    Args:
        name: of this list of tasks, for the keys of its buttons.
        tasks: in the order of work.
        place: an ``st.empty()`` for progress and the button that stops.
        on_result: called after each answer, which ``_state.recall`` then knows.

    Returns:
        Whether anything was computed.
    """
    waiting = [task for task in tasks if _state.recall(task.key) is None]
    left_out = st.session_state.get("stopped", frozenset())
    pending = [task for task in waiting if task.key not in left_out]
    if pending:
        with place.container(horizontal=True, vertical_alignment="center"):
            bar = st.progress(0.0)
            st.button("Cancel", key=f"stop.{name}", on_click=_stop,
                      args=(frozenset(task.key for task in pending),), width=90)
        before = len(tasks) - len(waiting)
        try:
            for index, task in enumerate(pending):
                _answer(task, bar, before + index, len(tasks))
                on_result(task)
        except Busy as busy:
            with place.container(horizontal=True, vertical_alignment="center"):
                st.warning(str(busy))
                st.button("Try again", key=f"again.{name}", width=110)
            return False
        place.empty()
    _offer_to_go_on(name, [task for task in waiting if task.key in left_out], place)
    return bool(pending)


def _answer(task: Task, bar: Any, number: int, count: int) -> None:
    job = _job_for(task)
    while True:
        # Here, at every tick, Streamlit may end this run because of a click.
        bar.progress(_share(job, number, count), text=_progress_text(task, job, number, count))
        if job.wait():
            break
    st.session_state.pop("job", None)
    if isinstance(job.error, GivenUp):  # just before this run came to watch it
        _answer(task, bar, number, count)
        return
    if isinstance(job.error, Busy):
        raise job.error
    _state.keep(task.key, job.result if job.error is None else failure(job.error))


def _job_for(task: Task) -> Job:
    """The job that already works on it, or a new one; one that works on something else ends."""
    job = st.session_state.get("job")
    if job is not None and job.key == task.key and not job.stopped:
        return job
    if job is not None:
        job.stop()
    job = st.session_state["job"] = Job(task, after=job)
    return job


def _share(job: Job, number: int, count: int) -> float:
    part = job.done / job.total if job.total else 0.0
    return min(1.0, (number + part) / count)


def _progress_text(task: Task, job: Job, number: int, count: int) -> str:
    seconds = time.monotonic() - job.started
    steps = f", step {job.done} of {job.total}" if job.total else ""
    clock = f", {seconds:.0f} s" if seconds >= 1 else ""
    if place := job.position:
        clock = f", {_gate.waiting_words(place)}"
    return f"{number + 1} of {count}: {task.label}{steps}{clock}"


def failure(error: Exception) -> Failed:
    """One sentence for the visitor; the log gets the place of a fault, never a message."""
    if isinstance(error, cdam.CdamError):
        return Failed(str(error))
    logging.getLogger("streamlit.error_util").error("A job failed.", exc_info=error)
    return Failed(f"Something went wrong here. If it happens again, report the error id "
                  f"{error_id(error)}.")


def _stop(keys: frozenset[Hashable]) -> None:
    """What is done stays; the rest is left out until the visitor wants to go on."""
    if job := st.session_state.get("job"):
        job.stop()
    st.session_state["stopped"] = st.session_state.get("stopped", frozenset()) | keys


def _offer_to_go_on(name: str, left_out: Sequence[Task], place: Any) -> None:
    if not left_out:
        return
    names = ", ".join(task.label for task in left_out)
    with place.container(horizontal=True, vertical_alignment="center"):
        st.info(f"Cancelled. What was done is kept; left out: {names}.")
        st.button("Go on", key=f"go-on.{name}", on_click=_go_on,
                  args=(frozenset(task.key for task in left_out),), width=90)


def _go_on(keys: frozenset[Hashable]) -> None:
    st.session_state["stopped"] = st.session_state.get("stopped", frozenset()) - keys
