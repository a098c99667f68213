"""The gate in front of all computing: who is served when, how many wait, and with which threads."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core import threads
from pages import _gate, _methods_jobs, _state
from pages._gate import Busy, Gate, Limits
from pages._samples import samples


def one_slot(monkeypatch, **limits):
    """The app's gate with a single slot."""
    monkeypatch.setattr(_gate, "gate", Gate(Limits(**({"cores": 1} | limits))))


class Visitor(threading.Thread):
    """Somebody who waits for a turn, writes the name into ``seen`` and stays until told to go."""

    def __init__(self, gate, name, seen, owner=None, check=lambda: None):
        super().__init__(daemon=True)
        self.turn, self.label, self.seen = gate.turn(owner, check), name, seen
        self.may_go, self.error = threading.Event(), None
        line = gate.counts()[1]
        self.start()
        wait_until(lambda: gate.counts()[1] > line or not self.is_alive() or self.label in seen)

    def run(self):
        try:
            with self.turn:
                self.seen.append(self.label)
                self.may_go.wait(5)
        except BaseException as error:
            self.error = error


def wait_until(is_so, seconds=5.0):
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


@contextmanager
def threads_of(count):
    before = threads.current()
    threads.use(count)
    yield
    threads.use(before)


# ---- the line ------------------------------------------------------------------------------------


def test_who_came_first_is_served_first_and_knows_the_place():
    gate, seen = Gate(Limits(cores=2)), []
    first = Visitor(gate, "first", seen)
    others = [Visitor(gate, name, seen) for name in "abcd"]
    assert [first.turn.position, *(each.turn.position for each in others)] == [0, 1, 2, 3, 4]
    assert gate.counts() == (1, 4)
    first.may_go.set()
    for index, each in enumerate(others):
        wait_until(lambda index=index: len(seen) == index + 2)
        assert [other.turn.position for other in others[index:]] == list(range(4 - index))
        each.may_go.set()
    each.join(5)
    assert seen == ["first", *"abcd"]
    assert gate.counts() == (0, 0)


def test_all_cores_but_one_are_given_out():
    gate, seen = Gate(Limits(cores=4)), []
    visitors = [Visitor(gate, name, seen) for name in "abcde"]
    assert gate.counts() == (3, 2)
    for each in visitors:
        each.may_go.set()
        each.join(5)
    assert [Limits(cores=cores).slots for cores in (1, 2, 8)] == [1, 1, 7]


def test_one_too_many_is_told_at_once_and_the_line_stays():
    gate, seen = Gate(Limits(cores=1, waiting=2)), []
    inside = [Visitor(gate, name, seen) for name in "abc"]
    begun = time.monotonic()
    with pytest.raises(Busy, match="Many people are computing"), gate.turn():
        pass
    assert time.monotonic() - begun < 1
    assert gate.counts() == (1, 2)
    for each in inside:
        each.may_go.set()
        each.join(5)
    assert seen == list("abc")


def test_who_waits_too_long_is_told():
    gate = Gate(Limits(cores=1, patience=0.05))
    with gate.turn(), pytest.raises(Busy), gate.turn():
        pass
    assert gate.counts() == (0, 0)


def test_one_visitor_cannot_take_every_slot_or_fill_the_line():
    gate, seen = Gate(Limits(cores=4, jobs_per_user=2, waiting_per_user=3)), []
    greedy = [Visitor(gate, f"greedy {n}", seen, "greedy") for n in range(5)]
    assert gate.counts() == (2, 3)
    with pytest.raises(Busy, match="You have many jobs"), gate.turn("greedy"):
        pass
    modest = Visitor(gate, "modest", seen, "modest")
    wait_until(lambda: "modest" in seen)
    assert seen == ["greedy 0", "greedy 1", "modest"]
    for each in (modest, *greedy):
        each.may_go.set()
        each.join(5)
    assert len(seen) == 6


def test_the_slot_is_given_back_after_a_failure():
    gate = Gate(Limits(cores=1))
    with pytest.raises(ZeroDivisionError), gate.turn():
        raise ZeroDivisionError
    with gate.turn():
        assert gate.counts() == (1, 0)


def test_who_clicks_on_leaves_the_line_and_others_move_up():
    class Left(BaseException):
        pass

    gate, seen, has_left = Gate(Limits(cores=1)), [], threading.Event()

    def check():
        if has_left.is_set():
            raise Left

    first = Visitor(gate, "first", seen)
    gone, stays = Visitor(gate, "gone", seen, check=check), Visitor(gate, "stays", seen)
    has_left.set()
    gone.join(5)
    assert isinstance(gone.error, Left)
    assert stays.turn.position == 1
    for each in (first, stays):
        each.may_go.set()
        each.join(5)
    assert seen == ["first", "stays"]


def test_between_the_steps_of_a_long_job_the_line_goes_first():
    gate, seen = Gate(Limits(cores=1)), []
    with gate.turn() as long:
        long.step()  # nobody waits: it goes on
        short = [Visitor(gate, name, seen) for name in "ab"]
        for each in short:
            each.may_go.set()
        long.step()
        assert seen == ["a", "b"]
        assert long.position == 0


def test_a_full_line_never_ends_a_long_job():
    gate, seen = Gate(Limits(cores=1, waiting=1, patience=0.2)), []
    with gate.turn() as long:
        other = Visitor(gate, "other", seen)
        threading.Timer(0.4, other.may_go.set).start()  # longer than a newcomer would wait
        long.step()
        assert seen == ["other"]


def test_closing_waits_for_those_at_work_and_refuses_the_rest():
    gate, seen = Gate(Limits(cores=1)), []
    at_work, waiting = Visitor(gate, "at work", seen), Visitor(gate, "waiting", seen)
    assert not gate.close(0.05)
    waiting.join(5)
    with pytest.raises(Busy, match="about to stop"), gate.turn():
        pass
    threading.Timer(0.1, at_work.may_go.set).start()
    assert gate.close(5)
    assert seen == ["at work"]
    assert "about to stop" in str(waiting.error)


# ---- threads -------------------------------------------------------------------------------------


def test_a_job_alone_takes_all_cores_until_somebody_comes():
    gate, seen = Gate(Limits(cores=3)), []
    with threads_of(1):
        with gate.turn() as long:
            counts = [threads.current()]
            beside = Visitor(gate, "beside", seen)
            long.step()
            counts.append(threads.current())
            beside.may_go.set()
            beside.join(5)
            long.step()
            counts.append(threads.current())
        assert counts == [3, 1, 3]
        assert threads.current() == 1


def test_a_job_takes_one_thread_while_somebody_waits():
    gate, seen = Gate(Limits(cores=3, jobs_per_user=1)), []
    first = Visitor(gate, "first", seen, "me")
    waits = Visitor(gate, "waits", seen, "me")
    with threads_of(1), gate.turn("you"):
        assert threads.current() == 1
    for each in (first, waits):
        each.may_go.set()
        each.join(5)


def test_a_failed_job_leaves_its_thread_with_one():
    def fail():
        with Gate(Limits(cores=2)).turn():
            assert threads.current() == 2
            raise ZeroDivisionError

    with threads_of(1):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert threads.current() == 1


def test_the_number_of_threads_is_each_threads_own():
    """What the gate relies on: others that compute already keep theirs."""
    asked, may_go, found = threading.Event(), threading.Event(), []

    def other():
        threads.use(1)
        asked.set()
        may_go.wait(5)
        found.append(threads.current())

    thread = threading.Thread(target=other)
    with threads_of(1):
        thread.start()
        asked.wait(5)
        threads.use(2)
        may_go.set()
        thread.join(5)
    assert found == [1]


# ---- the shared model ----------------------------------------------------------------------------


def test_many_at_once_get_the_maps_that_each_would_get_alone():
    """Several visitors, one model, one and several threads: everybody's own map."""
    model = _state.get_model("scenes")
    images = [cdam.open_image(sample.file) for sample in list(samples().values())[:3]]
    images.append(Image.effect_noise((64, 64), 60).convert("RGB"))
    alone = [cdam.explain(model, image, cdam.ALL).scores for image in images]
    gate, found, failed = Gate(Limits(cores=4)), {}, []

    def visit(index):
        try:
            for again in range(2):
                with gate.turn(f"visitor {index}"):
                    explanation = cdam.explain(model, images[index], cdam.ALL)
                found[index, again] = explanation.scores
        except Exception as error:
            failed.append(error)

    visitors = [threading.Thread(target=visit, args=(index,)) for index in range(len(images))]
    for each in visitors:
        each.start()
    for each in visitors:
        each.join()
    assert not failed
    assert len(found) == 2 * len(images)
    for (index, _), scores in found.items():
        np.testing.assert_allclose(scores, alone[index], atol=1e-4 * np.abs(alone[index]).max())


def test_a_job_counts_as_its_visitors_and_tells_its_place(monkeypatch):
    one_slot(monkeypatch)
    with _gate.slot():
        job = _methods_jobs.Job(_methods_jobs.Task("key", "label", lambda _: "done"))
        wait_until(lambda: job.position == 1)
    assert job.finished.wait(5)
    assert (job.result, job.position) == ("done", 0)


def test_work_handed_to_another_thread_keeps_its_visitor(monkeypatch):
    monkeypatch.setattr(_gate, "_visitor", _gate.ContextVar("visitor", default="session 1"))
    work, found = _gate.on_behalf(lambda name: (name, _gate.owner())), []
    thread = threading.Thread(target=lambda: found.append(work("a")))
    thread.start()
    thread.join()
    assert found == [("a", "session 1")]
    assert [_gate.waiting_words(place) for place in (1, 2, 5)] == [
        "next in line", "1 before you in line", "4 before you in line"]
