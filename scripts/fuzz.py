"""Read tens of thousands of damaged files; nothing may crash, hang, or eat memory.

   python scripts/fuzz.py --out FOLDER [--cases 60000] [--seed 0]

Sound pictures (six formats), CT slices, concepts, checkpoints and records of results are damaged:
bits flipped, sizes changed, pieces cut, moved, doubled and spliced, also with checksums put right.
Each is read by the function that reads a visitor's file. Right is a result that can be used, or the
typed error. A finding is anything else: another exception, a dead process, more than two seconds of
processor time, or more memory than the bound of its kind above what the process held before.

The files that are damaged are kept in FOLDER/sound; with them, number and seed decide everything,
so a finding is repeated by ``--only NUMBER``. The work is done in a process that is started again
when it dies; FOLDER/report.json holds what came out, and the same command goes on where it stopped.
Files that killed or stopped the process lie beside it. Linux only.
"""

import argparse
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import cdam_core as cdam  # noqa: E402
from cdam_core import checkpoints, concepts, images, replaying  # noqa: E402
from cdam_core.files import write_atomically  # noqa: E402
from cdam_core.nodules import dicom  # noqa: E402
from cdam_core.nodules.own import open_own  # noqa: E402
from scripts.fuzz_files import Draw, Files, all_files, damaged  # noqa: E402

# Kind -> (of 20 cases, MB of memory that reading one may take). A picture of 40 million pixels
# needs about 25 bytes for each while 16-bit values become colours.
KINDS = {
    "image": (9, 1100), "dicom": (3, 300), "concept": (2, 100), "checkpoint": (3, 300),
    "record": (3, 400),
}  # fmt: skip
ORDER = [kind for kind, (share, _) in KINDS.items() for _ in range(share)]
MAX_SECONDS = 2.0  # of processor time, for one file
KILLED_AFTER = 30.0  # seconds of processor time; 300 of any time
HEADROOM = 4 * 2**30  # bytes of address space beyond the start: a backstop for this computer
EVERY = 200  # cases between two reports


def main() -> int:
    """Run what is left to run and print the sum; 1 where there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="repeat this case, in this process")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.worker:
        work(*given.worker, given.seed, given.out)
        return 0
    if given.only is not None:
        print(json.dumps(Reader(given.seed, given.out).run(given.only), indent=1))
        return 0
    report = Report(given.out / "report.json", given.seed)
    while report.done < given.cases:
        watch(report, given.cases, given.out)
    print(report.text())
    return 1 if report.content["findings"] else 0


# ---- one case ------------------------------------------------------------------------------------


class Reader:
    """Damages and reads files, one case at a time.

    Args:
        seed: of the whole run.
        folder: for the files that are read by their path.
    """

    def __init__(self, seed: int, folder: Path):
        self.seed, self.files = seed, sound_files(folder / "sound")
        self.folder = folder / f"case-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)

    def file_of(self, case: int) -> tuple[str, bytes]:
        """Kind and content of a case."""
        kind, draw = ORDER[case % len(ORDER)], Draw(f"{self.seed}.{case}")
        others: Files = self.files[kind if draw.random() < 0.9 else draw.choice(list(self.files))]
        return kind, damaged(draw.choice(self.files[kind]), draw, others)

    def run(self, case: int) -> dict[str, Any]:
        """What came of it, its seconds and its memory."""
        kind, content = self.file_of(case)
        path = self.folder / f"{kind}.bin"
        path.write_bytes(content)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at the present size
        before, start, clock = resident("VmRSS"), time.process_time(), time.perf_counter()
        try:
            READERS[kind](content, path)
            came = "read"
        except cdam.CdamError as error:
            came = f"{type(error).__name__} {error.reason}"
        except BaseException as error:
            came = f"escaped {type(error).__name__}: {str(error)[:200]}"
        seconds, wall = time.process_time() - start, time.perf_counter() - clock
        megabytes = (resident("VmHWM") - before) / 1024
        return {"case": case, "kind": kind, "came": came, "seconds": round(seconds, 3),
                "wall": round(wall, 3), "MB": round(megabytes)}  # fmt: skip


def sound_files(folder: Path) -> dict[str, Files]:
    """The files that are damaged; kept, as torch writes other bytes in every process."""
    if not folder.is_dir():
        draft = folder.with_name(f"draft-{os.getpid()}")
        draft.mkdir()
        for kind, files in all_files().items():
            for number, content in enumerate(files):
                (draft / f"{kind}-{number:02d}").write_bytes(content)
        draft.rename(folder)
    return {kind: [path.read_bytes() for path in sorted(folder.glob(f"{kind}-*"))]
            for kind in KINDS}  # fmt: skip


def read_image(content: bytes, path: Path) -> None:
    """As every page opens a picture."""
    image = cdam.open_image(content)
    images._check_size(*image.size)
    assert image.mode == "RGB", image.mode
    assert set(image.info) == {"notes"}
    image.getpixel((image.width - 1, image.height - 1))


def read_slice(content: bytes, path: Path) -> None:
    """As a visitor's own slice is opened, and as a folder of scans is read, headers first."""
    scan = refused = None
    try:
        scan = open_own([content])
        assert np.isfinite(scan.values).all()
        assert len(scan.digest) == 64
    except cdam.CdamError as error:
        refused = error
    archive = dicom.DicomArchive(path.parent, ())
    assert not archive.nodules
    try:
        values = dicom._hounsfield(path)
    except cdam.CdamError:  # what a visitor may open as a picture is no slice of a folder
        assert scan is None or not scan.is_hu
    else:  # one decoder serves both
        assert scan is not None
        assert (values == scan.values[0]).all()
    if refused is not None:
        raise refused


def read_concepts(content: bytes, path: Path) -> None:
    """As a file of concepts is opened."""
    for concept in concepts.load_concepts(content):
        assert np.isfinite(concept.vector).all()
        concepts.reliability_words(concept.report)
        concept.to_bytes()


def read_checkpoint(content: bytes, path: Path) -> None:
    """As a file of the local folder is listed and loaded."""
    checkpoints.card_in(path)
    checkpoints.recognise(path)
    model = cdam.load_model(path)
    rows, cols = model.input_size
    assert rows * cols <= 4096**2, model.input_size


def read_record(content: bytes, path: Path) -> None:
    """As a ZIP of results is read before anything of it is computed again."""
    record = replaying.read(content)
    assert all(np.isfinite(arrays["scores"]).all() for arrays in record.arrays)


READERS: dict[str, Callable[[bytes, Path], None]] = {
    "image": read_image,
    "dicom": read_slice,
    "concept": read_concepts,
    "checkpoint": read_checkpoint,
    "record": read_record,
}


def resident(field: str) -> int:
    """VmRSS, VmHWM or VmSize in kB."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise SystemExit("Memory is read from /proc/self/status, which exists on Linux only.")


# ---- the process that reads ----------------------------------------------------------------------


def work(first: int, last: int, seed: int, folder: Path) -> None:
    """Run the cases and print a line of JSON for each."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    reader = Reader(seed, folder)
    limit = resident("VmSize") * 1024 + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Path(os.devnull).open("w") as nowhere:  # the C libraries of formats comment on every file
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    for case in range(first, last):
        print(json.dumps(reader.run(case)), flush=True)


# ---- the process that watches --------------------------------------------------------------------


class Report:
    """What came out so far; kept in a file, so that a run can go on later.

    Args:
        path: of the file.
        seed: of the run; another one starts anew.

    Attributes:
        content: JSON-able.
    """

    def __init__(self, path: Path, seed: int):
        self.path = path
        self.content: dict[str, Any] = {"seed": seed, "done": 0, "kinds": {}, "findings": []}
        if path.is_file():
            found = json.loads(path.read_text("utf-8"))
            self.content = found if found["seed"] == seed else self.content

    @property
    def done(self) -> int:
        """Cases that are done: all below this number."""
        return self.content["done"]

    def add(self, line: dict[str, Any]) -> None:
        """Take up the outcome of the next case."""
        kind = line["kind"]
        row = self.content["kinds"].setdefault(
            kind, {"cases": 0, "came": {}, "seconds": 0.0, "slowest": 0.0, "MB": 0}
        )
        row["cases"] += 1
        row["came"] = dict(Counter(row["came"]) + Counter([line["came"][:80]]))
        row["seconds"] = round(row["seconds"] + line["seconds"], 3)
        row["slowest"] = max(row["slowest"], line["seconds"])
        row["MB"] = max(row["MB"], line["MB"])
        wrong = faults(line)
        if wrong:
            self.content["findings"].append({**line, "faults": wrong})
        self.content["done"] = line["case"] + 1
        if wrong or self.done % EVERY == 0:
            self.save()

    def save(self) -> None:
        """Write it in one step."""
        write_atomically(self.path, json.dumps(self.content, indent=1).encode())

    def text(self) -> str:
        """One line for each kind of file, and one for each finding."""
        lines = [f"{self.done} cases, seed {self.content['seed']}"]
        for kind, row in sorted(self.content["kinds"].items()):
            read = row["came"].get("read", 0)
            lines.append(
                f"{kind:11s}{row['cases']:7d} files, {read} read, {row['cases'] - read} refused; "
                f"slowest {row['slowest']:.2f} s, mean {row['seconds'] / row['cases']:.4f} s of "
                f"processor time; at most {row['MB']} MB"
            )
        found = self.content["findings"]
        lines.append(f"{len(found)} findings")
        return "\n".join(lines + [json.dumps(each) for each in found])


def faults(line: dict[str, Any]) -> list[str]:
    """What is wrong with the outcome of a case."""
    wrong = [] if line["came"] == "read" or _is_refusal(line["came"]) else [line["came"]]
    if line["seconds"] > MAX_SECONDS:
        wrong.append(f"{line['seconds']} s")
    if line["MB"] > KINDS[line["kind"]][1]:
        wrong.append(f"{line['MB']} MB")
    return wrong


def _is_refusal(came: str) -> bool:
    return came.split()[0] in ("BadImage", "BadScan", "BadConcept", "BadCheckpoint", "BadRecord")


def watch(report: Report, last: int, folder: Path) -> None:
    """Let one process work until it is done, dead, or has to be ended."""
    command = [sys.executable, __file__, "--worker", str(report.done), str(last),
               "--seed", str(report.content["seed"]), "--out", str(folder)]  # fmt: skip
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=quiet) as worker:
        try:
            why = _listen(worker, report, last)
        finally:
            worker.kill()
    if report.done < last:
        case = report.done
        reader = Reader(report.content["seed"], folder)
        kind, content = reader.file_of(case)
        (folder / f"finding-{case}-{kind}.bin").write_bytes(content)
        report.add({"case": case, "kind": kind, "came": why or _death(worker.returncode),
                    "seconds": 0.0, "wall": 0.0, "MB": 0})  # fmt: skip
    report.save()


def _listen(worker: subprocess.Popen, report: Report, last: int) -> str:
    """Take up its lines; why it had to be ended, or nothing."""
    used, since = 0.0, time.monotonic()
    is_starting = True
    while report.done < last:
        ready, _, _ = select.select([worker.stdout], [], [], 1.0)
        if ready:
            line = worker.stdout.readline()
            if not line:
                if worker.wait() == 1 and is_starting:
                    raise SystemExit("The process that reads cannot start; see above.")
                return ""
            report.add(json.loads(line))
            used, since, is_starting = processor_seconds(worker.pid), time.monotonic(), False
        elif not is_starting and processor_seconds(worker.pid) - used > KILLED_AFTER:
            return "hangs, working"
        elif time.monotonic() - since > 300:
            return "hangs"
    return ""


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _death(code: int) -> str:
    name = signal.Signals(-code).name if code < 0 else f"code {code}"
    return f"died: {name}"


if __name__ == "__main__":
    sys.exit(main())
