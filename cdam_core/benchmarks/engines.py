"""Who computes: threads of this process, or the workers of a Ray cluster.

An engine hands one picture at a time to a pure function of model, picture, plan and todo, and gives
the results back as they come, at most a few pictures ahead of the workers. With one thread per
worker every engine on the same kind of processor gives bit-identical rows.

Threads, not processes, on one machine: the work is matrix products inside PyTorch, which lets other
threads run meanwhile, and all threads read one copy of the weights.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cdam_core import threads
from cdam_core.benchmarks.datasets import Picture
from cdam_core.errors import BadData
from cdam_core.models import VisionModel

Function = Callable[..., Any]  # (model, picture, plan, todo, on_step) -> result
OnPulse = Callable[[int], None]
TRIES = 4  # of a picture whose Ray worker was lost


@dataclass(frozen=True)
class Job:
    """One picture to be measured.

    Attributes:
        load: reads the picture, when its turn has come.
        todo: what the function is asked to do with it.
    """

    load: Callable[[], Picture]
    todo: Any


class Stopped(Exception):
    """Raised in a worker when nobody waits for its result any more."""


@dataclass(frozen=True)
class Local:
    """Threads of this process.

    Attributes:
        workers: pictures in work at once; None: as many as there are cores, one on a graphics card.
        threads: cores that each worker takes.
    """

    workers: int | None = None
    threads: int = 1
    name = "local"

    def describe(self, model: VisionModel) -> dict[str, Any]:
        """JSON-able."""
        return {"name": self.name, "workers": self.count(model), "threads": self.threads}

    def count(self, model: VisionModel) -> int:
        """Workers that this model gets."""
        if self.workers:
            return self.workers
        on_card = next(model.module.parameters()).device.type != "cpu"
        return 1 if on_card else max(1, threads.cores() // self.threads)

    def map(
        self, function: Function, model: VisionModel, plan: Any, jobs: Iterable[Job],
        on_pulse: OnPulse | None = None,
    ) -> Iterator[Any]:  # fmt: skip
        """Results in the order in which they are finished.

        Leaving the loop early, by an error or Ctrl-C too, stops the workers within a batch.

        Args:
            function: (model, picture, plan, todo, on_step) -> result.
            model, plan: handed to it.
            jobs: pictures; read when a worker is free.
            on_pulse: called every half second, in the caller's thread, with how many images the
                workers have shown to the model so far.
        """
        stop, done = threading.Event(), queue.Queue()
        waiting: queue.Queue = queue.Queue()
        shown = [0] * self.count(model)

        def work(number: int) -> None:
            threads.use(self.threads)
            on_step = _counter(shown, number, stop)
            while (job := waiting.get()) is not None:
                try:
                    done.put((function(model, job.load(), plan, job.todo, on_step), None))
                except BaseException as error:  # handed to the caller
                    done.put((None, error))

        def pulse() -> None:
            if on_pulse:
                on_pulse(sum(shown))

        crew = [threading.Thread(target=work, args=(number,), daemon=True)
                for number in range(len(shown))]  # fmt: skip
        for each in crew:
            each.start()
        try:
            yield from _results(iter(jobs), waiting.put, done, len(crew) + 1, pulse)
        finally:
            stop.set()
            for _ in crew:
                waiting.put(None)
            for each in crew:
                each.join()


def _counter(shown: list[int], number: int, stop: threading.Event) -> Callable[[int, int], None]:
    """Adds to one place of ``shown`` what is told as (done, total), one task after the other."""
    before = 0

    def on_step(done: int, total: int) -> None:
        nonlocal before
        if stop.is_set():
            raise Stopped
        shown[number] += done - before if done > before else done
        before = done if done < total else 0

    return on_step


def _results(
    jobs: Iterator[Job], give: Callable[[Job], None], done: queue.Queue, ahead: int,
    pulse: Callable[[], None],
) -> Iterator[Any]:  # fmt: skip
    """Hand out jobs, ``ahead`` at once, and give what comes back."""
    open_jobs = 0
    for job in jobs:
        give(job)
        open_jobs += 1
        if open_jobs >= ahead:
            yield _taken(done, pulse)
            open_jobs -= 1
    for _ in range(open_jobs):
        yield _taken(done, pulse)


def _taken(done: queue.Queue, pulse: Callable[[], None]) -> Any:
    while True:
        try:
            result, error = done.get(timeout=0.5)  # in slices, so that Ctrl-C gets through
        except queue.Empty:
            pulse()
            continue
        if error is not None:
            raise error
        return result


@dataclass(frozen=True)
class Ray:
    """Workers of a Ray cluster, each with a copy of the model and one picture at a time.

    Pictures are read here and sent, so the workers need no common disk. A worker that is lost is
    started again, and its picture with it, up to ``TRIES`` times.

    Attributes:
        address: of a running cluster; None: one is started on this machine, for this run.
        workers: None: one per processor of the cluster (per graphics card, if the model is on one).
        threads: processors that each worker takes.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    name = "ray"

    def describe(self, model: VisionModel) -> dict[str, Any]:
        """JSON-able."""
        return {"name": self.name, "workers": self.workers, "threads": self.threads}

    def map(
        self, function: Function, model: VisionModel, plan: Any, jobs: Iterable[Job],
        on_pulse: OnPulse | None = None,
    ) -> Iterator[Any]:  # fmt: skip
        """As ``Local.map``; what the workers have shown is not known here, so there is no pulse."""
        ray = _ray()
        mine = not ray.is_initialized()
        if mine:
            self._start(ray)
        try:
            yield from self._results(ray, function, model, plan, iter(jobs))
        finally:
            if mine:
                ray.shutdown()

    def _start(self, ray: Any) -> None:
        own = self.address is None
        size = {"num_cpus": (self.workers or threads.cores()) * self.threads} if own else {}
        try:
            ray.init(address=self.address, include_dashboard=False, log_to_driver=False,
                     logging_level="error", **size)  # fmt: skip
        except (OSError, RuntimeError, ValueError) as error:
            raise BadData(
                "unsupported",
                f"Ray could not be started or reached ({type(error).__name__}); see that --address "
                "names a running cluster of the same version of Ray and Python, or leave it out.",
            ) from None

    def _results(
        self, ray: Any, function: Function, model: VisionModel, plan: Any, jobs: Iterator[Job]
    ) -> Iterator[Any]:
        device = next(model.module.parameters()).device.type
        shared = ray.put((function, model.on("cpu", model.half), plan))
        kind = ray.remote(num_cpus=self.threads, num_gpus=int(device == "cuda"),
                          max_restarts=-1, max_task_retries=TRIES)(_Worker)  # fmt: skip
        found = ray.cluster_resources().get("GPU" if device == "cuda" else "CPU", 1)
        per_worker = 1 if device == "cuda" else self.threads
        room = max(1, int(found // per_worker))
        count = min(self.workers or room, room)
        idle = [kind.remote(shared, device, self.threads) for _ in range(count)]
        busy: dict[Any, Any] = {}
        for job in jobs:
            if not idle:
                yield self._one(ray, busy, idle)
            worker = idle.pop()
            busy[worker.work.remote(job.load(), job.todo)] = worker
        while busy:
            idle.clear()  # ends them: one that still waits for a place in the cluster gets theirs
            yield self._one(ray, busy, idle)

    @staticmethod
    def _one(ray: Any, busy: dict[Any, Any], idle: list[Any]) -> Any:
        """Wait for any result, and note its worker as idle."""
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        idle.append(busy.pop(ready))
        try:
            return ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        except ray.exceptions.RayActorError:
            raise BadData(
                "unsupported",
                f"A Ray worker was lost {TRIES + 1} times over one picture; see that the cluster "
                "has memory enough. What is finished is kept, the same command goes on.",
            ) from None


class _Worker:
    """What runs on the cluster; ``model`` has been copied there once."""

    def __init__(self, shared: tuple[Function, VisionModel, Any], device: str, count: int):
        threads.use(count)
        self.count = count
        self.function, model, self.plan = shared
        self.model = model if device == "cpu" else model.on(device, model.half)

    def work(self, picture: Picture, todo: Any) -> Any:
        threads.use(self.count)  # kept per thread, and Ray chooses the thread
        return self.function(self.model, picture, self.plan, todo, None)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise BadData("missing-package", "The engine ray needs the package ray; install it with "
                      "pip install 'cdam-explorer[ray]', or use the engine local.") from None
    return ray


ENGINES = {"local": Local, "ray": Ray}
