"""Damaged files: a sample of what ``scripts/fuzz.py`` reads for long, and the fuzzer itself."""

import json
import signal
import sys

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cdam_core.errors import BadScan
from scripts import fuzz, fuzz_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
SAMPLE = 200  # cases; a seed of their own, so that they add to those of the long run
LINE = {"case": 0, "kind": "image", "came": "read", "seconds": 0.1, "wall": 0.1, "MB": 1}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return fuzz.Reader(77, tmp_path_factory.mktemp("fuzz"))


def test_damaged_files_are_read_or_refused(reader, capfd):
    came = [reader.run(case) for case in range(SAMPLE)]
    assert [(line, wrong) for line in came if (wrong := fuzz.faults(line))] == []
    for kind in fuzz.KINDS:  # the damage is neither harmless nor always fatal
        outcomes = {line["came"] for line in came if line["kind"] == kind}
        assert "read" in outcomes
        assert len(outcomes) > 1


def test_sound_files_are_read(reader):
    for kind, files in reader.files.items():
        for content in files:
            path = reader.folder / f"{kind}.bin"
            path.write_bytes(content)
            if str(DeflatedExplicitVRLittleEndian).encode() in content:  # sound, but never read
                with pytest.raises(BadScan, match="deflated"):
                    fuzz.READERS[kind](content, path)
                continue
            fuzz.READERS[kind](content, path)


def test_a_case_is_the_same_every_time(reader):
    folder = reader.folder.parent
    again, other = fuzz.Reader(77, folder), fuzz.Reader(78, folder)
    for case in range(40):
        assert reader.file_of(case) == again.file_of(case)
    assert reader.file_of(3) != other.file_of(3)


def test_damage_changes_every_kind_of_file(reader):
    for files in reader.files.values():
        draw = fuzz_files.Draw(0)
        changed = [fuzz_files.damaged(files[0], draw, files) != files[0] for _ in range(40)]
        assert sum(changed) > 30


@pytest.mark.parametrize(("line", "wrong"), [
    ({}, []),
    ({"came": "BadImage truncated"}, []),
    ({"came": "escaped ValueError: x"}, ["escaped ValueError: x"]),
    ({"came": "died: SIGSEGV"}, ["died: SIGSEGV"]),
    ({"seconds": 2.1}, ["2.1 s"]),
    ({"MB": 5000}, ["5000 MB"]),
])  # fmt: skip
def test_what_counts_as_a_finding(line, wrong):
    assert fuzz.faults(LINE | line) == wrong


def test_other_exceptions_and_memory_are_noticed(reader, monkeypatch):
    def wrong(content, path):
        held.append(bytearray(b"x") * (300 * 2**20))
        raise KeyError("not typed")

    held = []
    monkeypatch.setitem(fuzz.READERS, "image", wrong)
    line = reader.run(0)
    assert line["came"].startswith("escaped KeyError")
    assert 290 < line["MB"] < 400


def test_a_report_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "report.json"
    report = fuzz.Report(path, 5)
    for case in range(3):
        report.add(LINE | {"case": case, "came": "BadImage empty" if case else "read"})
    report.save()
    again = fuzz.Report(path, 5)
    assert again.done == 3
    assert again.content["kinds"]["image"]["came"] == {"read": 1, "BadImage empty": 2}
    assert "1 read, 2 refused" in again.text()
    assert fuzz.Report(path, 6).done == 0
    json.loads(path.read_text())


def test_a_dead_process_is_a_finding_and_the_next_case_goes_on(tmp_path, monkeypatch):
    """The process dies of the first case that it is asked for, and is ended in the second."""
    program = tmp_path / "worker.py"
    program.write_text(
        "import json, os, signal, sys, time\n"
        "first = int(sys.argv[2])\n"
        f"line = json.loads({json.dumps(json.dumps(LINE))})\n"
        "for case in range(first, 3):\n"
        "    if case == first == 0: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    while case == 2: pass\n"
        "    print(json.dumps(line | {'case': case}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(program))
    monkeypatch.setattr(fuzz, "KILLED_AFTER", 1.0)
    report = fuzz.Report(tmp_path / "report.json", 5)
    while report.done < 3:
        fuzz.watch(report, 3, tmp_path)
    found = [(each["case"], each["came"]) for each in report.content["findings"]]
    assert found == [(0, f"died: {signal.SIGSEGV.name}"), (2, "hangs, working")]
    kept = sorted(path.name for path in tmp_path.glob("finding-*"))
    assert kept == ["finding-0-image.bin", "finding-2-image.bin"]
