"""The one gate in front of all computing: a few jobs at a time, the rest wait in one fair line.

Who came first is served first, except that nobody may have more than a few jobs at work at once. A
long job goes to the end of the line between its steps, so that a short one never waits for all of
it. Each job computes with one thread; one that is alone, with nobody waiting, takes all cores.
"""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cdam_core import threads
from pages._access import USER
from pages._settings import Computing, settings

UNTOLD = 10  # looks of a waiting page before it says so: most wait for less
AGAIN = 40  # looks until it says so again, as long as the browser shows it
TICK = 0.1  # seconds between two looks at whether a waiting job is still wanted


class Busy(Exception):
    """There is no place here now; the message is for the visitor."""

    def __init__(self, text: str = "Many people are computing here right now."):
        super().__init__(f"{text} Please try again in a minute.")


@dataclass(frozen=True)
class Limits:
    """How much is computed at once; the defaults are those of ``server.toml``.

    Attributes:
        cores: of the processor, for all jobs together.
        waiting: jobs in the line; one more is refused.
        jobs_per_user: of one visitor that are at work at once.
        waiting_per_user: of one visitor in the line.
        patience: seconds in the line after which a job is refused.
    """

    cores: int = field(default_factory=threads.cores)
    waiting: int = Computing.waiting
    jobs_per_user: int = Computing.jobs_per_user
    waiting_per_user: int = Computing.waiting_per_user
    patience: float = Computing.patience_s

    @classmethod
    def stated(cls, by: Computing) -> "Limits":
        """What the administrator decided; never more cores than there are."""
        cores = min(by.cores or threads.cores(), threads.cores())
        return cls(cores, by.waiting, by.jobs_per_user, by.waiting_per_user, by.patience_s)

    @property
    def slots(self) -> int:
        """Jobs at work at once: one core is left to answer clicks."""
        return max(1, self.cores - 1)


class Turn:
    """One job at the gate: outside, in the line, or at work. ``with turn:`` waits, then works.

    Args:
        gate: where it waits.
        owner: the visitor; None: the server itself.
        check: called while it waits; what it raises takes the job out of the line.
    """

    def __init__(self, gate: "Gate", owner: str | None, check: Callable[[], None]):
        self.owner = owner
        self.check = check
        self._gate = gate

    @property
    def position(self) -> int:
        """Place in the line, 1 is next; 0 when it is at work, or not there."""
        return self._gate.position(self)

    def __enter__(self) -> "Turn":
        """Wait for a slot.

        Raises:
            Busy: the line is full, or did not move for too long.
            BaseException: what ``check`` raises.
        """
        self._gate.enter(self)
        return self

    def __exit__(self, *failure: object) -> None:
        self._gate.leave(self)

    def step(self) -> None:
        """Let those go first who came in the meantime; called in the thread that computes.

        Raises:
            BaseException: what ``check`` raises.
        """
        self._gate.step(self)


class Gate:
    """The line and who is at work.

    Args:
        limits: how much at once.
    """

    def __init__(self, limits: Limits | None = None):
        self.limits = limits or Limits()
        self._changed = threading.Condition()
        self._line: list[Turn] = []
        self._at_work: list[Turn] = []
        self._closed = False

    # ---- what can be seen --------------------------------------------------------------------

    def position(self, turn: Turn) -> int:
        """Place of a job in the line, 1 is next; 0 when it is not in it."""
        with self._changed:
            return self._line.index(turn) + 1 if turn in self._line else 0

    def counts(self) -> tuple[int, int]:
        """How many are at work and how many wait."""
        with self._changed:
            return len(self._at_work), len(self._line)

    # ---- one job -----------------------------------------------------------------------------

    def turn(
        self, owner: str | None = None, check: Callable[[], None] = lambda: None
    ) -> Turn:
        """A job that is not in the line yet."""
        return Turn(self, owner, check)

    def enter(self, turn: Turn) -> None:
        """Wait for one's turn and take a slot."""
        self._queue(turn)
        try:
            self._wait(turn, self.limits.patience)
        except BaseException:
            self.leave(turn)
            raise

    def leave(self, turn: Turn) -> None:
        """Give the slot back."""
        with self._changed:
            for place in (self._line, self._at_work):
                if turn in place:
                    place.remove(turn)
            self._changed.notify_all()
        threads.use(1)

    def step(self, turn: Turn) -> None:
        """Go to the end of the line, if anybody stands there; never refused."""
        turn.check()
        with self._changed:
            if self._line:
                self._at_work.remove(turn)
                self._line.append(turn)
                self._changed.notify_all()
        self._wait(turn, None)

    def _queue(self, turn: Turn) -> None:
        with self._changed:
            if self._closed:
                raise Busy("This server is about to stop.")
            own = [each for each in self._line if each.owner == turn.owner]
            if turn.owner is not None and len(own) >= self.limits.waiting_per_user:
                raise Busy("You have many jobs waiting here already.")
            if len(self._line) >= self.limits.waiting:
                raise Busy
            self._line.append(turn)

    def _wait(self, turn: Turn, patience: float | None) -> None:
        """Until it is at work, and then take the threads that it may."""
        came = time.monotonic()
        with self._changed:
            while turn not in self._at_work and not self._admit(turn):
                self._changed.wait(TICK)
                if patience is not None:  # it has not begun
                    self._lose_patience(time.monotonic() - came > patience)
                if turn not in self._at_work:
                    self._without_lock(turn.check)
            count = self.limits.cores if self._is_alone() else 1
        threads.use(count)

    def _lose_patience(self, is_late: bool) -> None:
        if self._closed:
            raise Busy("This server is about to stop.")
        if is_late:
            raise Busy

    def _admit(self, turn: Turn) -> bool:
        """Put it to work if it is the first who may."""
        if len(self._at_work) >= self.limits.slots or self._first() is not turn:
            return False
        self._line.remove(turn)
        self._at_work.append(turn)
        self._changed.notify_all()
        return True

    def _first(self) -> Turn | None:
        """The first of the line whose visitor has not all the jobs at work that one may have."""
        owners = [each.owner for each in self._at_work]
        return next((each for each in self._line if each.owner is None
                     or owners.count(each.owner) < self.limits.jobs_per_user), None)  # fmt: skip

    def _is_alone(self) -> bool:
        return len(self._at_work) == 1 and not self._line

    def _without_lock(self, check: Callable[[], None]) -> None:
        self._changed.release()
        try:
            check()
        finally:
            self._changed.acquire()

    # ---- the end -----------------------------------------------------------------------------

    def close(self, patience: float) -> bool:
        """Admit nobody any more, and wait until those inside are done; whether they all were."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: not (self._at_work or self._line), timeout=patience
            )


gate = Gate(Limits.stated(settings().computing))
_visitor: ContextVar[str | None] = ContextVar("visitor", default=None)


def owner() -> str | None:
    """The visitor for whom this thread works, by name or else by session; None: nobody's."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return _visitor.get()
    name = (context.user_info or {}).get(USER)
    return f"user {name}" if name else f"session {context.session_id}"


def on_behalf(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same function for another thread, where it counts as this visitor's."""
    who = owner()

    @wraps(work)
    def run(*arguments: Any) -> Any:
        token = _visitor.set(who)
        try:
            return work(*arguments)
        finally:
            _visitor.reset(token)

    return run


def still_wanted() -> None:
    """End this run here if the visitor has clicked on, or left.

    Raises:
        BaseException: Streamlit's own, which ends a run.
    """
    if (context := get_script_run_ctx(suppress_warning=True)) is not None:
        context.yield_check()


class PageTurn(Turn):
    """A job of a page: while it waits, the page says how many are before it."""

    def __init__(self, gate: Gate):
        super().__init__(gate, owner(), self._look)
        self._looks = 0

    def _look(self) -> None:
        """Say the place after a moment, and again while it lasts; wherever the page is scrolled."""
        still_wanted()
        self._looks += 1
        if self._looks % AGAIN == UNTOLD and get_script_run_ctx(suppress_warning=True):
            place = self.position
            if place:
                st.toast(f"Waiting, {waiting_words(place)}: others are computing here right now.",
                         icon=":material/hourglass:")  # fmt: skip


def slot() -> Turn:
    """What a page computes under: entering waits for a place, leaving gives it back.

    Raises:
        Busy: there is no place now.
    """
    return PageTurn(gate)


def waiting_words(position: int) -> str:
    """What a visitor reads of a place in the line."""
    return "next in line" if position == 1 else f"{position - 1} before you in line"
