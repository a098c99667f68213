"""A benchmark from start to end: choose pictures, tune, measure, put the table together, resume.

    from cdam_core.benchmarks import runner
    data = open_data(model, "scenes:pairs")
    runner.run(model, data, Path("out"), runner.Ask(methods=("cdam", "attention"), steps=50))

In the folder: ``parts/`` (one file per picture), ``tuning/`` (one per held-out picture),
``results.parquet`` (all rows) and ``run.json`` (everything needed to repeat the run). Every file is
written in one step. What is there is never measured again; a run with more methods, measures or
pictures adds to it; one that would mix other settings into it is refused.
"""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cdam_core.benchmarks import results, tuning
from cdam_core.benchmarks.datasets import Data, Item, split
from cdam_core.benchmarks.engines import Job, Local
from cdam_core.benchmarks.measuring import GROUPS, MARGIN, Plan, images_to_show, measure, wanted
from cdam_core.benchmarks.results import Part
from cdam_core.errors import BadData, BadTarget
from cdam_core.files import write_atomically
from cdam_core.methods import METHODS
from cdam_core.methods.blocks import images_per_batch
from cdam_core.models import VisionModel

PAPERS_METHODS = ("cdam", "integrated_cdam", "smooth_cdam", "relevance_propagation", "partial_lrp",
                  "attention", "smoothgrad", "integrated_gradients", "input_x_gradient")
# Protocol -> settings where they differ from the methods' defaults.
PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "paper": {
        "smooth_cdam": {"at": "block_input"},
        "integrated_cdam": {"at": "block_input"},
        "integrated_gradients": {"baseline": "zero"},
    },
}
PAPERS_SIDE = 224
PAPERS_HELD_OUT = 200
# How well rows are repeated by another engine, or by the same one again.
EXACT = "bit for bit, by one thread per worker on this kind of processor in the same chunks"
ROUNDED = "to rounding, about 1e-4 relative"
PULSE = 20.0  # seconds between two signs of life
RESULTS, RUN = "results.parquet", "run.json"
FORMAT = 1


@dataclass(frozen=True)
class Ask:
    """What a benchmark is asked for.

    Attributes:
        methods: ids in ``METHODS``.
        measures: groups, of ``GROUPS``.
        protocol: in ``PROTOCOLS``.
        steps: of the MIF and LIF curves.
        boxes: random boxes per size.
        rankings: random orders of patches to compare with.
        blur_sigma: of the blur that takes the place of pixels, in pixels.
        seed: of the choice of pictures and of everything drawn by chance.
        limit: how many pictures; None: all that are not held out.
        held_out: pictures to choose the noise on; None: as the protocol says.
        tuning_steps: of the curves on those.
        settings: method -> settings that go before the protocol's.
    """

    methods: tuple[str, ...]
    measures: tuple[str, ...] = GROUPS
    protocol: str = "default"
    steps: int = 100
    boxes: int = 100
    rankings: int = 10
    blur_sigma: float = 14.0
    seed: int = 0
    limit: int | None = None
    held_out: int | None = None
    tuning_steps: int = 20
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def held(self) -> int:
        """Pictures held out."""
        if self.held_out is not None:
            return self.held_out
        return PAPERS_HELD_OUT if self.protocol == "paper" else 0

    def settings_of(self, method: str) -> dict[str, Any]:
        """What is set for a method; the rest are its defaults."""
        return {**PROTOCOLS[self.protocol].get(method, {}), **self.settings.get(method, {})}

    def check(self) -> None:
        """Raise ``BadTarget`` for what no run could answer."""
        for name, known in ((self.methods, METHODS), (self.measures, GROUPS)):
            unknown = [each for each in name if each not in known]
            if unknown or not name:
                raise BadTarget("unknown-method", f"An unknown name or none arrived; expected some "
                                f"of {', '.join(known)}.")  # fmt: skip
        if self.protocol not in PROTOCOLS:
            raise BadTarget("bad-setting", f"Expected a protocol of {', '.join(PROTOCOLS)}.")
        least = {"steps": 1, "boxes": 2, "rankings": 1, "tuning_steps": 1, "held": 0, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BadTarget("bad-setting", f"{name} = {getattr(self, name)} arrived; expected "
                                f"at least {low}.")  # fmt: skip
        if (self.limit is not None and self.limit < 1) or not self.blur_sigma > 0:
            raise BadTarget("bad-setting", "Expected a limit of at least 1 picture and a blur "
                            "above 0 pixels.")  # fmt: skip
        for method in {*self.methods, *self.settings}:
            if method not in METHODS:
                raise BadTarget("unknown-method", "A setting of an unknown method arrived; "
                                f"expected one of {', '.join(METHODS)}.")  # fmt: skip
            METHODS[method].resolve_settings(self.settings_of(method))


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: "tuning" | "measuring".
        done, total: pictures.
        seconds_left: by the pace so far; NaN before the first one.
        image: the one just finished; "" where none is, and the time left is a first estimate.
        note: why it was left out, or "".
    """

    stage: str
    done: int
    total: int
    seconds_left: float
    image: str
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """What a run comes to.

    Attributes:
        results: the table.
        images: pictures in it.
        broken: picture -> why it was left out.
        rows: in the table.
        left_out: method -> why this model cannot be asked by it.
    """

    results: Path
    images: int
    broken: Mapping[str, str]
    rows: int
    left_out: Mapping[str, str]


OnProgress = Callable[[Progress], None]


def methods_for(model: VisionModel) -> tuple[str, ...]:
    """The methods that are made for how a model reads its answer, in the table's order."""
    return tuple(name for name, method in METHODS.items()
                 if method.pooling in (model.pool, "any"))  # fmt: skip


def run(
    model: VisionModel,
    data: Data,
    out: Path,
    ask: Ask,
    engine: Any = None,
    on_progress: OnProgress | None = None,
    told: Mapping[str, Any] | None = None,
) -> Summary:
    """Run a benchmark, or go on with one.

    Args:
        model: adapted ViT, on the device where it is to compute.
        data: from ``datasets.open_data``.
        out: folder of the run; made where there is none.
        ask: what to measure.
        engine: ``engines.Local`` or ``engines.Ray``; None: threads on all cores.
        on_progress: called after every picture; may raise to stop: what is finished is kept.
        told: JSON-able; kept in run.json as "asked".

    Returns:
        ``Summary``.

    Raises:
        BadTarget, BadData: before anything is computed.
    """
    ask.check()
    results.arrow()
    return _Run(model, data, Path(out), ask, engine or Local(), on_progress, told).run()


class _Run:
    """One run; arguments as for ``run``."""

    def __init__(
        self, model: VisionModel, data: Data, out: Path, ask: Ask, engine: Any,
        on_progress: OnProgress | None, told: Mapping[str, Any] | None,
    ):  # fmt: skip
        self.model, self.data, self.out, self.ask, self.engine = model, data, out, ask, engine
        self.on_progress, self.told = on_progress, dict(told or {})
        self.test, self.held = split(data.items, ask.seed, ask.limit, ask.held)
        if not self.test:
            raise BadData("empty", "There are no pictures to test on; expected at least one that "
                          "is not held out.")  # fmt: skip
        self.parts, self.tried = out / "parts", out / "tuning"
        self.before = _read(out / RUN)
        self.tuned = {name: tuning.of_json(each)
                      for name, each in self.before.get("tuning", {}).items()}  # fmt: skip
        self._check_same()
        for folder in (self.parts, self.tried):
            folder.mkdir(parents=True, exist_ok=True)
        self.seconds = float(self.before.get("seconds", 0.0))

    def run(self) -> Summary:
        """All of it."""
        started = time.perf_counter()
        self._write_run(finished=False)
        try:
            self._tune()
            self._measure()
        finally:
            self.seconds += time.perf_counter() - started
            summary = self._finish()
        return summary

    # ---- what makes a run ------------------------------------------------------------------------

    def _request(self) -> dict[str, Any]:
        """What must be the same in every run that adds to a folder."""
        ask, model = self.ask, self.model
        return {
            "weights_sha256": model.weights_sha256, "input_size": list(model.input_size),
            "pool": model.pool, "half": model.half, "data_digest": self.data.digest,
            "protocol": ask.protocol, "steps": ask.steps, "boxes": ask.boxes,
            "rankings": ask.rankings, "blur_sigma": ask.blur_sigma, "seed": ask.seed,
            "held_out": ask.held, "tuning_steps": ask.tuning_steps,
        }  # fmt: skip

    def _settings(self) -> dict[str, dict[str, Any]]:
        """Method -> all its settings; ``sigma_share`` where the noise was tuned."""
        found = {}
        for name in self.ask.methods:
            settings = METHODS[name].resolve_settings(self.ask.settings_of(name))
            settings = {key: list(value) if isinstance(value, tuple) else value
                        for key, value in settings.items()}  # fmt: skip
            if "seed" in settings and "seed" not in self.ask.settings_of(name):
                settings["seed"] = "of the run and the picture's name"
            if name in self.tuned and self._is_tuned(name):
                settings["sigma_share"] = self.tuned[name].chosen
            found[name] = settings
        return found

    def _check_same(self) -> None:
        if not self.before and self.parts.is_dir() and any(self.parts.iterdir()):
            raise BadData("other-run", f"The folder holds pictures of a run, but no readable {RUN} "
                          "that says by which settings; choose another folder.")  # fmt: skip
        if not self.before:
            return
        request, before = self._request(), self.before.get("request", {})
        other = [name for name in request if request[name] != before.get(name)]
        known, now = self.before.get("settings", {}), self._settings()
        other += [f"settings of {name}" for name in now
                  if name in known and known[name] != now[name]]  # fmt: skip
        if other:
            raise BadData(
                "other-run",
                f"The folder holds a run that differs in {', '.join(other)}; choose another "
                "folder, or the same settings to add to it.",
            )

    def _plan(self) -> Plan:
        ask = self.ask
        is_photographs = ask.protocol == "paper" and not self.data.has_masks
        return Plan(
            {name: ask.settings_of(name) for name in ask.methods},
            {name: self.tuned[name].chosen for name in ask.methods
             if name in self.tuned and self._is_tuned(name)},
            ask.steps, ask.boxes, ask.rankings, ask.blur_sigma, ask.seed,
            MARGIN if is_photographs else 1.0,
        )  # fmt: skip

    # ---- stages ----------------------------------------------------------------------------------

    def _is_tuned(self, method: str) -> bool:
        given = self.ask.settings_of(method).get("sigma")
        return self.ask.held > 0 and method in tuning.SHARES and given is None

    def _tune(self) -> None:
        """Choose the noise of the methods that have some, where that has not been done before."""
        open_ones = [name for name in self.ask.methods
                     if self._is_tuned(name) and name not in self.tuned]  # fmt: skip
        if not open_ones or not self.held:
            return
        plan = dataclasses.replace(self._plan(), steps=self.ask.tuning_steps)
        known = {item.id: _read(self._place(self.tried, item.id)) for item in self.held}
        todo = {item.id: [name for name in open_ones if name not in known[item.id]]
                for item in self.held}  # fmt: skip
        jobs = [(item, todo[item.id]) for item in self.held if todo[item.id]]
        for name, areas in self._each("tuning", tuning.try_shares, plan, jobs,
                                      lambda result: (result[0], "")):
            known[name] |= areas or {}
            if areas is not None:
                write_atomically(self._place(self.tried, name), json.dumps(known[name]).encode())
        used = [found for found in known.values() if all(name in found for name in open_ones)]
        if not used:
            raise BadData("empty", "None of the held-out pictures could be read; there is nothing "
                          "to choose the noise on.")  # fmt: skip
        for name in open_ones:
            self.tuned[name] = tuning.choose(used, name, self.ask.tuning_steps)
        self._write_run(finished=False)

    def _measure(self) -> None:
        whole = wanted(self.ask.methods, self.ask.measures, self.data.has_masks)
        jobs = []
        for item in self.test:
            known = results.read_part(self._place(self.parts, item.id), with_rows=False)
            if todo := _missing(whole, known):
                jobs.append((item, todo))
        for part in self._each("measuring", measure, self._plan(), jobs,
                               lambda part: (part.image, part.broken)):  # fmt: skip
            place = self._place(self.parts, part.image)
            known = results.read_part(place)
            results.write_part(place, known.with_more(part) if known else part)

    def _each(
        self, stage: str, function: Callable, plan: Plan, jobs: Sequence[tuple[Item, Any]],
        name_of: Callable[[Any], tuple[str, str]],
    ) -> Iterator[Any]:  # fmt: skip
        """What the engine gives for every job; progress is told when the caller has kept it."""
        pulse = _Pulse(stage, self._expected(plan, jobs), len(jobs), self.on_progress)
        started = time.perf_counter()
        loaded = (Job(lambda item=item: self.data.read(item), todo) for item, todo in jobs)
        with closing(self.engine.map(function, self.model, plan, loaded, pulse)) as found:
            for done, result in enumerate(found, 1):
                yield result
                pulse.done = done
                pace = (time.perf_counter() - started) / done
                if self.on_progress:
                    image, note = name_of(result)
                    self.on_progress(Progress(stage, done, len(jobs), pace * (len(jobs) - done),
                                              image, note))  # fmt: skip

    def _expected(self, plan: Plan, jobs: Sequence[tuple[Item, Any]]) -> int:
        """About how many images the jobs show to the model; 0 where that is not known (tuning)."""
        return sum(images_to_show(self.model, plan, todo, len(item.labels))
                   for item, todo in jobs if isinstance(todo, Mapping))  # fmt: skip

    # ---- files -----------------------------------------------------------------------------------

    @staticmethod
    def _place(folder: Path, image: str) -> Path:
        """The file of a picture; its name is told by a digest, as pictures may be named anyhow."""
        kind = "parquet" if folder.name == "parts" else "json"
        return folder / f"{hashlib.sha256(image.encode()).hexdigest()[:24]}.{kind}"

    def _finish(self) -> Summary:
        """Put the table together from what there is, and write down how it came about."""
        order, _ = split(self.data.items, self.ask.seed, None, self.ask.held)
        places = [self._place(self.parts, item.id) for item in order]
        rows = results.assemble(places, self.out / RESULTS)
        found = [part for place in places if place.is_file()
                 if (part := results.read_part(place, with_rows=False))]  # fmt: skip
        broken = {part.image: part.broken for part in found if part.broken}
        whole = wanted(self.ask.methods, self.ask.measures, self.data.has_masks)
        there = {part.image for part in found if part.broken or not _missing(whole, part)}
        left_out = {name: why for part in found for name, why in part.left_out.items()}
        self._write_run(all(item.id in there for item in self.test), found)
        return Summary(self.out / RESULTS, len(found) - len(broken), broken, rows, left_out)

    def _write_run(self, finished: bool, found: Sequence[Part] = ()) -> None:
        about = self._about() | {"finished": finished, "seconds": self.seconds}
        if found:
            about |= _counted(found, self.ask.limit, len(self.test))
        else:
            about |= {name: self.before[name] for name in ("images", "left_out", "work")
                      if name in self.before}  # fmt: skip
        text = json.dumps(about, indent=1, ensure_ascii=False)
        write_atomically(self.out / RUN, text.encode())

    def _about(self) -> dict[str, Any]:
        """Everything needed to repeat the run."""
        model, data, ask = self.model, self.data, self.ask
        before = self.before.get("settings", {})
        return {
            "format": FORMAT,
            "request": self._request(),
            "asked": self.told or self.before.get("asked", {}),
            "model": {"id": model.id, "weights_sha256": model.weights_sha256,
                      "input_size": list(model.input_size), "grid": list(model.grid),
                      "pool": model.pool, "half": model.half, "simulated": model.simulated},
            "data": {"id": data.id, "digest": data.digest, "pictures": len(data.items),
                     "has_masks": data.has_masks, "is_imagenet": data.is_imagenet,
                     "held_out": len(self.held), "notes": dict(data.notes)},
            "protocol": ask.protocol,
            "perturbation": {"fill": "gaussian blur", "blur_sigma": ask.blur_sigma,
                             "blur_sigma_relative": ask.blur_sigma / min(model.input_size),
                             "steps": ask.steps, "boxes": ask.boxes, "rankings": ask.rankings},
            "methods": [*dict.fromkeys((*before, *ask.methods))],
            "measures": [*dict.fromkeys((*self.before.get("measures", ()), *ask.measures))],
            "settings": before | self._settings(),
            "tuning": {name: asdict(each) for name, each in self.tuned.items()},
            "seed": ask.seed,
            "engine": self._engine(),
            "engines_before": self._engines_before(),
            "versions": {"python": sys.version.split()[0]} | {
                name: version(name) for name in ("torch", "timm", "numpy", "scipy", "pyarrow")}
            | {"cdam_core": _own_version()},
        }  # fmt: skip

    def _engine(self) -> dict[str, Any]:
        """Who computes, in which batches, and how exactly another run repeats it."""
        device = str(next(self.model.module.parameters()).device)
        is_exact = device == "cpu" and self.engine.threads == 1
        return self.engine.describe(self.model) | {
            "device": device,
            "chunk": images_per_batch(self.model, self.model.input_size, with_graph=False),
            "repeats": EXACT if is_exact else ROUNDED,
        }  # fmt: skip

    def _engines_before(self) -> list[dict[str, Any]]:
        """Other engines that earlier runs in this folder were computed by."""
        known = [*self.before.get("engines_before", ()), self.before.get("engine")]
        return [each for index, each in enumerate(known)
                if each and each != self._engine() and each not in known[:index]]  # fmt: skip


class _Pulse:
    """Tells progress between pictures, every ``PULSE`` seconds.

    Args:
        stage, total, on_progress: of the stage.
        expected: images that the stage will show to the model, about.
    """

    def __init__(self, stage: str, expected: int, total: int, on_progress: OnProgress | None):
        self.stage, self.expected, self.total, self.tell = stage, expected, total, on_progress
        self.done, self.started = 0, time.perf_counter()
        self.last = self.started

    def __call__(self, shown: int) -> None:
        now = time.perf_counter()
        if self.tell is None or now - self.last < PULSE:
            return
        self.last, spent = now, now - self.started
        known = shown > 0 and self.expected > 0
        left = max(0.0, spent * (self.expected / shown - 1)) if known else float("nan")
        self.tell(Progress(self.stage, self.done, self.total, left, ""))


def _own_version() -> str:
    from cdam_core import __version__

    return __version__


def _counted(found: Sequence[Part], limit: int | None, asked: int) -> dict[str, Any]:
    broken = [{"image": part.image, "reason": part.broken} for part in found if part.broken]
    seconds = sum(part.seconds for part in found)
    forwards = sum(part.forwards for part in found)
    return {
        "images": {"asked": asked, "limit": limit, "done": len(found) - len(broken),
                   "broken": broken},
        "left_out": {name: why for part in found for name, why in part.left_out.items()},
        "work": {"worker_seconds": seconds, "perturbed_images": forwards,
                 "perturbed_images_per_worker_second": forwards / seconds if seconds else None},
    }  # fmt: skip


def _missing(whole: Mapping[str, Sequence[str]], known: Part | None) -> dict[str, list[str]]:
    """What of ``whole`` a part does not have; pictures that were broken are tried again."""
    if known is None or known.broken:
        return {method: list(groups) for method, groups in whole.items()}
    open_ones = {method: [group for group in groups if group not in known.done.get(method, ())]
                 for method, groups in whole.items()}  # fmt: skip
    return {method: groups for method, groups in open_ones.items() if groups}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
