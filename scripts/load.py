"""Many visitors at once, each with a picture and choices of their own; every map is checked.

   python scripts/load.py [--sessions 30] [--rounds 12] [--steps 8] [--think 3 8] [--processes 1|2]
   python scripts/load.py --limit 5 10 20 30 40 60        # where changes pass 1 s
   python scripts/load.py --soak 60                       # minutes

Starts the app itself, two processes of it behind a real nginx with ``--processes 2``. Every visitor
opens the page, uploads a picture that nobody else has, and then changes classes, heads and patches,
or opens another picture, thinking in between. All numbers that arrive are kept and compared, after
the timed part, with what the library computes from the same picture alone: a map of another
visitor, of another class or of the picture before would differ. Each round has new visitors.
"""

import argparse
import io
import os
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import cdam_core as cdam  # noqa: E402
from scripts.serving import PASSWORD, App, Nginx  # noqa: E402
from scripts.visitor import Visitor  # noqa: E402

A = "A: why this class …"
CHANGES = ("class", "head", "patch")  # of an open picture
SLOW = 1.0  # seconds; --limit looks for the number of visitors at which 95 % of changes take longer
KEPT_LONGEST = 1536  # pixels; the app reduces larger pictures


@dataclass
class Seen:
    """Maps that a visitor was shown: what they are of, and their numbers."""

    picture: int
    head: int | None
    maps: dict[str, Any]


@dataclass
class Outcome:
    """Everything that a round showed.

    Attributes:
        seconds: kind of step -> how long each took.
        seen: maps to be checked.
        errors: what went wrong, in words.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    seen: list[Seen] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def main() -> int:
    """Run, check and print; 1 where a map is wrong or a step failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8, help="after the first picture")
    parser.add_argument("--think", type=float, nargs=2, default=(3.0, 8.0), metavar="SECONDS")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--limit", type=int, nargs="+", metavar="SESSIONS")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        most = max(given.limit or [given.sessions])
        apps, url = serve(stack, Path(scratch), given.processes, most)
        print(f"{given.processes} process(es), {os.cpu_count()} cores, "
              f"{given.steps} steps, {given.think[0]:g} to {given.think[1]:g} s of thought")
        is_right = True
        memory = []
        counts = given.limit or [given.sessions] * given.rounds
        begun, number = time.monotonic(), 0
        while number < len(counts):
            outcome = play(url, counts[number], number, given, given.processes > 1)
            memory.append(sum(app.memory() for app in apps))
            is_right &= tell(number, counts[number], outcome, memory[-1])
            number += 1
            if given.soak and time.monotonic() - begun < 60 * given.soak:
                counts.append(given.sessions)
        if len(memory) > 11 and not given.limit:
            print(f"memory from round 6 to 12: {100 * (memory[11] / memory[5] - 1):+.1f} %")
    return 0 if is_right else 1


def serve(stack: ExitStack, folder: Path, processes: int, users: int) -> tuple[list[App], str]:
    """The app, behind nginx if there is more than one process."""
    if processes == 1:
        app = stack.enter_context(App(folder))
        return [app], app.url
    options = {"server.baseUrlPath": "cdam"}
    env = {"STREAMLIT_SERVER_COOKIE_SECRET": "the same for both" * 3,
           "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}  # fmt: skip
    apps = [stack.enter_context(App(folder, options=options, env=env)) for _ in range(processes)]
    names = [f"user{number}" for number in range(users)]
    proxy = stack.enter_context(Nginx(folder, [app.port for app in apps], names))
    return apps, proxy.url


# ---- the timed part ------------------------------------------------------------------------------


def play(url: str, sessions: int, number: int, given: argparse.Namespace, named: bool) -> Outcome:
    """One round: all visitors at once, each in a thread."""
    outcome, lock = Outcome(), threading.Lock()

    def visit(index: int) -> None:
        mine = Outcome()
        try:
            user = (f"user{index}", PASSWORD) if named else None
            one_visit(url, user, 1000 * number + index, given, mine)
        except Exception as error:  # a load test goes on, and counts
            mine.errors.append(f"{type(error).__name__}: {error}"[:200])
        with lock:
            outcome.seen += mine.seen
            outcome.errors += mine.errors
            for kind, seconds in mine.seconds.items():
                outcome.seconds[kind] += seconds

    threads = [threading.Thread(target=visit, args=(index,)) for index in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def one_visit(
    url: str, user: tuple[str, str] | None, seed: int, given: argparse.Namespace, outcome: Outcome
) -> None:
    """Open, upload, and a few changes; the seed decides all of it."""
    draw = random.Random(seed)
    time.sleep(draw.uniform(0, given.think[1]))
    visitor = timed(outcome, "open", lambda: _opened(url, user))
    try:
        picture, head = seed, None
        content = _png(picture)
        timed(outcome, "new image", lambda: visitor.upload(content))
        outcome.seen.append(Seen(picture, head, visitor.screen.maps))
        for step in range(given.steps):
            time.sleep(draw.uniform(*given.think))
            kind = draw.choices(("class", "head", "patch", "new image"), (6, 1, 2, 1))[0]
            before = visitor.screen.drawn
            if kind == "class":
                options = list(visitor.screen.choices[A].options)
                label = draw.choice(options)
                timed(outcome, kind, lambda label=label: visitor.choose(A, label))
            elif kind == "head":
                head = draw.randrange(3)
                timed(outcome, kind, lambda n=head: visitor.choose("Head", f"Head {n + 1}"))
            elif kind == "patch":
                row = float(draw.randint(1, 24))
                timed(outcome, kind, lambda row=row: visitor.choose("Row", row))
            else:
                picture = seed + 100_000 * (step + 1)
                content = _png(picture)
                timed(outcome, kind, lambda data=content: visitor.upload(data))
            if visitor.screen.maps is None or visitor.screen.drawn == before:
                outcome.errors.append(f"no maps after the step {kind}: "
                                      f"{visitor.screen.sentences[-1:]}")  # fmt: skip
                return
            outcome.seen.append(Seen(picture, head, visitor.screen.maps))
    finally:
        visitor.close()


def _opened(url: str, user: tuple[str, str] | None) -> Visitor:
    visitor = Visitor(url, user)
    visitor.open()
    return visitor


def timed(outcome: Outcome, kind: str, step: Any) -> Any:
    """Do a step and note how long it took."""
    begun = time.perf_counter()
    result = step()
    outcome.seconds[kind].append(time.perf_counter() - begun)
    return result


def _picture(seed: int) -> Image.Image:
    """A picture that exists once: a cut of a sample scene, perhaps mirrored, with noise."""
    draw = np.random.default_rng(seed)
    files = sorted((ROOT / "assets" / "scenes").glob("*.jpg"))
    with Image.open(files[int(draw.integers(len(files)))]) as file:
        image = file.convert("RGB")
    left, top = (int(draw.integers(1, 1 + side // 8)) for side in image.size)
    image = image.crop((left, top, image.width, image.height))
    if draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    noise = draw.integers(-4, 5, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _png(seed: int) -> bytes:
    buffer = io.BytesIO()
    _picture(seed).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# ---- the check -----------------------------------------------------------------------------------


def wrong_maps(outcome: Outcome) -> list[str]:
    """Maps that differ from what the library computes of the same picture, each in words."""
    model, encodings, wrong = cdam.load_model("scenes"), {}, []
    for seen in sorted(outcome.seen, key=lambda each: each.picture):
        if seen.picture not in encodings:
            image = cdam.limit_side(cdam.open_image(_png(seen.picture)), KEPT_LONGEST)
            encodings = {seen.picture: model.encode_image(image)}  # one at a time: they are sorted
        found = difference(model, encodings[seen.picture], seen)
        if found:
            wrong.append(f"picture {seen.picture}: {found}")
    return wrong


def difference(model: cdam.VisionModel, encoding: cdam.Encoding, seen: Seen) -> str:
    """How the maps shown differ from those computed alone; empty where they do not."""
    shown = {each["name"]: np.array(each["values"]) for each in seen.maps["shown"]}
    a, b = list(shown)[:2]
    settings = {} if seen.head is None else {"heads": (seen.head,)}
    e = cdam.explain(model, encoding, [a, b, cdam.Contrast(a, b)], "cdam", **settings)
    if set(shown) != set(e.labels):
        return f"labels {sorted(shown)}, expected {sorted(e.labels)}"
    # Sent rounded to so many decimals; two computations may differ in the last bits.
    tolerance = 0.5 * 10.0 ** -seen.maps["decimals"] + 1e-5 * float(np.abs(e.scores).max())
    for label, scores in zip(e.labels, e.scores, strict=True):
        far = float(np.abs(shown[label] - scores.ravel()).max())
        if far > tolerance:
            return f"{label}: off by {far:.4g}, may be off by {tolerance:.4g}"
    return ""


def tell(number: int, sessions: int, outcome: Outcome, memory: float) -> bool:
    """Print a round; whether all was right."""
    wrong = wrong_maps(outcome)
    changes = [second for kind in CHANGES for second in outcome.seconds[kind]]
    print(f"round {number + 1}: {sessions} sessions, {len(outcome.seen)} maps checked, "
          f"{len(wrong)} wrong, {len(outcome.errors)} errors, {memory:.0f} MB")
    for kind, seconds in sorted((k, s) for k, s in outcome.seconds.items() if s):
        p50, p95 = np.percentile(seconds, (50, 95))
        print(f"  {kind:10s}{len(seconds):5d} × p50 {p50:.2f} p95 {p95:.2f} "
              f"max {max(seconds):.2f} s")
    p95 = np.percentile(changes, 95) if changes else float("nan")
    print(f"  all changes: p95 {p95:.2f} s{' (more than 1 s)' if p95 > SLOW else ''}", flush=True)
    for text in (wrong + outcome.errors)[:10]:
        print(f"  {text}")
    return not wrong and not outcome.errors


if __name__ == "__main__":
    sys.exit(main())
