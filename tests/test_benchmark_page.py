"""The page "Benchmark" without a browser, and the runs behind it: real processes, made-up results.

Runs in these tests are a stand-in for the command that writes the same files at a pace of its own;
the last test lets the real command work.
"""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core.benchmarks import datasets, reading, tables
from cdam_core.benchmarks.averages import QUANTITIES
from pages import _benchmark_runs as runs_page
from pages import _benchmark_show as show_page
from pages._benchmark_runs import (
    DONE,
    FAILED,
    HOLD,
    RUNNING,
    STOPPED,
    WAITING,
    Hold,
    Line,
    Request,
    Run,
)
from pages._gate import Busy
from tests import runs
from tests.test_pages import FOLDER

ASKED = Request("scenes", None, "scenes:pairs", ("cdam",), 5, "default", 20, 20)
STAND_IN = """
import json, pathlib, sys, time
out, pause = pathlib.Path(sys.argv[1]), float(sys.argv[2])
(out / "parts").mkdir(exist_ok=True)
def say(finished):
    (out / "run.json").write_text(json.dumps({"data": {"pictures": 9, "held_out": 2},
                                              "finished": finished}))
say(False)
try:
    for number in range(5):
        place = out / "parts" / f"{number}.parquet"
        if not place.exists():
            time.sleep(pause)
            place.touch()
    say(True)
except KeyboardInterrupt:
    (out / "interrupted").touch()
    sys.exit(2)
"""


@cache
def scenes():
    """The bundled model, loaded once, and its pairs."""
    model = cdam.load_model("scenes")
    return model, datasets.open_data(model, "scenes:pairs")


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder for everybody's runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv(runs_page.VARIABLE, str(folder))
    return folder


@pytest.fixture
def line(shared, monkeypatch):
    """A line of its own; its runs are the stand-in, each picture takes ``pace[0]`` seconds."""
    found, pace = Line(), [0.0]
    monkeypatch.setattr(runs_page, "line", found)
    monkeypatch.setattr(Request, "command", lambda self, out: [
        sys.executable, "-c", STAND_IN, str(out), str(pace[0])])  # fmt: skip
    found.pace = pace
    yield found
    found.close()


# ---- runs ----------------------------------------------------------------------------------------


def test_one_run_after_the_other_to_the_end(line):
    line.pace[0] = 0.1
    first, second = (runs_page.create(ASKED) for _ in range(2))
    line.add(first, "a")
    line.add(second, "b")
    wait_for(lambda: runs_page.state(first) == RUNNING)
    assert runs_page.state(second) == WAITING
    assert line.position(second) == 1
    if hasattr(os, "getpriority"):  # clicks of visitors go first
        pid = int((first.folder / runs_page.PID).read_text())
        assert os.getpriority(os.PRIO_PROCESS, pid) == runs_page.NICE
    wait_for(lambda: runs_page.progress(first).done >= 2)
    assert runs_page.progress(first).total == 5  # asked for, of 7 that are not held out
    wait_for(lambda: runs_page.state(first) == DONE)
    wait_for(lambda: runs_page.state(second) == DONE)
    assert {run.name for run in runs_page.runs()} == {first.name, second.name}
    assert runs_page.runs()[0].request.methods == ("cdam",)


def test_time_left_is_told_by_the_pace(line, monkeypatch):
    run = runs_page.create(ASKED)
    (run.folder / "parts").mkdir()
    (run.folder / "run.json").write_text('{"data": {"pictures": 9, "held_out": 2}}')
    (run.folder / runs_page.PID).write_text("0")
    for number, when in enumerate((900.0, 1020.0, 1040.0)):  # the first is of an earlier start
        (run.folder / "parts" / f"{number}.parquet").touch()
        os.utime(run.folder / "parts" / f"{number}.parquet", (when, when))
    os.utime(run.folder / runs_page.PID, (1000.0, 1000.0))
    monkeypatch.setattr(runs_page.time, "time", lambda: 1045.0)
    assert runs_page.progress(run) == runs_page.Progress(3, 5, 2 * 20.0 - 5.0)


def test_held_out_pictures_are_told_apart(shared):
    run = runs_page.create(ASKED)
    (run.folder / "run.json").write_text('{"data": {"pictures": 9, "held_out": 4}}')
    (run.folder / "tuning").mkdir()
    (run.folder / "tuning" / "a.json").touch()
    assert runs_page.progress(run) == runs_page.Progress(1, 4, None, is_tuning=True)
    (run.folder / "parts").mkdir()
    (run.folder / "parts" / "a.parquet").touch()
    assert runs_page.progress(run) == runs_page.Progress(1, 5, None)


def test_a_run_is_stopped_and_goes_on_where_it_was(line):
    line.pace[0] = 0.2
    run = runs_page.create(ASKED)
    line.add(run, "a")
    with pytest.raises(Busy, match="at work already"):
        line.add(run, "b")
    wait_for(lambda: runs_page.progress(run).done >= 1)
    runs_page.stop(run)
    wait_for(lambda: runs_page.state(run) == STOPPED)
    assert (run.folder / "interrupted").exists()  # it could put its results together
    before = (run.folder / "parts" / "0.parquet").stat().st_mtime_ns
    line.pace[0] = 0.0
    line.add(run, "b")
    wait_for(lambda: runs_page.state(run) == DONE)
    assert (run.folder / "parts" / "0.parquet").stat().st_mtime_ns == before


def test_who_waits_can_leave_and_too_many_are_refused(line):
    line.pace[0] = 5.0
    made = [runs_page.create(ASKED) for _ in range(runs_page.MAX_OWN + 2)]
    line.add(made[0], "a")
    wait_for(lambda: runs_page.state(made[0]) == RUNNING)
    for run in made[1:-1]:
        line.add(run, "a")
    with pytest.raises(Busy, match="waiting here already"):
        line.add(made[-1], "a")
    runs_page.stop(made[1])
    wait_for(lambda: runs_page.state(made[1]) == STOPPED)
    line.add(made[-1], "a")
    assert runs_page.state(made[-1]) == WAITING


def test_a_failed_run_says_the_commands_own_sentence(line, monkeypatch):
    program = "import sys; print('cdam: no such data.', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(Request, "command", lambda *_: [sys.executable, "-c", program])
    run = runs_page.create(ASKED)
    line.add(run, "a")
    wait_for(lambda: runs_page.state(run) == FAILED)
    assert runs_page.why_failed(run) == "no such data."


def test_a_folder_that_is_not_allowed_any_more_fails_in_words(shared, monkeypatch):
    line = Line()
    run = runs_page.create(Request("scenes", None, "folder:gone", ("cdam",), 5, "default", 20, 20))
    line.add(run, "a")
    wait_for(lambda: runs_page.state(run) == FAILED)
    assert "not allowed here any more" in runs_page.why_failed(run)
    line.close()


@pytest.mark.skipif(os.name != "posix", reason="locks that end with their process")
def test_after_a_restart_a_run_that_was_going_is_seen_as_stopped(shared):
    """A server that is killed takes its run along; another process sees that, and goes on."""
    code = (
        "import sys, time\n"
        "from pages import _benchmark_runs as page\n"
        f"asked = page.{ASKED}\n"
        f"stand_in = {STAND_IN!r}\n"
        "page.Request.command = lambda self, out: "
        "[sys.executable, '-c', stand_in, str(out), '60']\n"
        "runs = [page.create(asked) for _ in range(2)]\n"
        "for run in runs:\n"
        "    page.line.add(run, 'a')\n"
        "while page.state(runs[0]) != page.RUNNING:\n"
        "    time.sleep(0.05)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                              cwd=FOLDER.parent)  # fmt: skip
    try:
        while server.stdout.readline().strip() != "ready":
            assert server.poll() is None
        both = runs_page.runs()
        assert sorted(map(runs_page.state, both)) == [RUNNING, WAITING]
        with pytest.raises(Busy, match="at work already"):
            Line().add(both[0], "b")
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()
    if "--pdeathsig" not in runs_page._wrapping():
        pytest.skip("without setpriv a run may outlive its server; it is then seen as going on")
    wait_for(lambda: [runs_page.state(run) for run in both] == [STOPPED, STOPPED])


def test_private_runs_end_with_the_visit(line, monkeypatch, tmp_path):
    monkeypatch.delenv(runs_page.VARIABLE)
    session = {}
    monkeypatch.setattr(runs_page.st, "session_state", session)
    assert runs_page.runs() == []
    line.pace[0] = 60.0
    run = runs_page.create(ASKED)
    assert run.folder.parent.name.startswith(runs_page.PREFIX)
    assert run.folder.parent.stat().st_mode & 0o077 == 0  # nobody else's business
    line.add(run, "a")
    wait_for(lambda: runs_page.state(run) == RUNNING)
    pid = int((run.folder / runs_page.PID).read_text())
    session.clear()
    wait_for(lambda: not run.folder.parent.exists())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_request_never_holds_a_path_and_the_command_takes_it_as_it_is(shared, monkeypatch):
    pictures = shared.parent / "x;y -rf"
    pictures.mkdir()
    monkeypatch.setenv("CDAM_FOLDERS", str(pictures))
    monkeypatch.delenv("CDAM_DEVICE", raising=False)
    asked = Request("--help", 84, "folder:x;y -rf", ("cdam", "attention"), 5, "paper", 20, 50)
    run = runs_page.create(asked)
    assert str(pictures.parent) not in (run.folder / runs_page.REQUEST).read_text()
    command = run.request.command(run.folder)
    assert command[1:4] == ["-m", "cdam_core", "benchmark"]
    assert {"--model=--help", "--size=84", f"--data={pictures}", "--methods=cdam,attention",
            "--limit=5", "--protocol=paper", "--tune=5", "--steps=20", "--boxes=50"} <= set(command)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 1}', json.dumps(
    {**{name: [] for name in Request.__dataclass_fields__}}).encode()])  # fmt: skip
def test_a_damaged_request_is_none(shared, content):
    folder = shared / "20260101-000000-abcdef"
    folder.mkdir()
    (folder / runs_page.REQUEST).write_bytes(content)
    run, = runs_page.runs()
    assert run.request is None
    assert runs_page.state(run) == STOPPED
    assert runs_page.progress(run) == runs_page.Progress(0, 0, None)


def test_a_lock_ends_with_who_has_it(tmp_path):
    first = Hold.take(tmp_path / HOLD)
    assert Hold.take(tmp_path / HOLD) is None
    assert Hold.is_held(tmp_path / HOLD)
    first.release()
    assert not Hold.is_held(tmp_path / HOLD)
    Hold.take(tmp_path / HOLD).release()


# ---- the page ------------------------------------------------------------------------------------


def opened() -> AppTest:
    at = AppTest.from_file(str(FOLDER / "_frame.py"), default_timeout=300)
    at.session_state["frame"] = True
    at.switch_page(str(FOLDER / "benchmark.py")).run()
    assert not at.exception
    return at


def texts(at) -> str:
    parts = (*at.markdown, *at.caption, *at.warning, *at.info, *at.error)
    return "\n".join(element.value for element in parts).replace("\\", "")


def tabled(at, title):
    place = [m.value for m in at.markdown if m.value.startswith("**")].index(f"**{title}**")
    return at.dataframe[place].value


@pytest.fixture
def finished(shared):
    """A run on the shipped pairs of objects."""
    _, data = scenes()
    about = runs.ABOUT | {"data": runs.ABOUT["data"] | {"digest": data.digest}}
    rows = runs.pairs(4, names=[item.id for item in data.items[:4]])
    return runs.write(shared / "20260101-000000-abcdef", rows, about)


def test_tables_are_the_librarys(finished):
    at = opened()
    expected = {table.layout.title: table for table in
                tables.tables(reading.read_folder(finished))}  # fmt: skip
    for title, table in expected.items():
        frame = tabled(at, title)
        for column in table.columns:
            wanted = [cells[column.id].estimate.value for cells in table.rows.values()
                      if column.id in cells]  # fmt: skip
            np.testing.assert_allclose(frame[tables.head(column)].dropna(), wanted)
    assert list(tabled(at, "Correctness: fidelity and box sensitivity")["Method"])[-1] == \
        "Random order"
    assert "SIMULATED DATA" in texts(at)
    at.segmented_control(key="benchmark.numbers").set_value(show_page.DIFFERENCES).run()
    frame = tabled(at, "Class discrimination")
    assert "CDAM" not in list(frame["Method"])
    cell = expected["Class discrimination"].rows["attention"]["box_discrimination"]
    assert frame.set_index("Method").loc["Attention map", "A_Δbox ↑"] == cell.difference.value


def test_the_worst_picture_is_the_worst_and_opens_in_the_comparison(finished):
    at = opened()
    results = reading.read_folder(finished)
    places = show_page.ranked(results, "attention", QUANTITIES["box"])
    rows = [(row["value"], row["image"], row["output"])
            for row in runs.pairs(4, names=list(results.images)) if row["method"] == "attention"
            and row["measure"] == "box" and row["kind"] == "right"]  # fmt: skip
    assert [(p.value, p.image, p.output) for p in places] == sorted(rows, reverse=True)
    at.selectbox(key="benchmark.method").set_value("attention").run()
    at.selectbox(key="benchmark.quantity").set_value(QUANTITIES["box"]).run()
    worst = places[-1]
    at.button(key=f"benchmark.open.Worst.{worst.image}.{worst.output}").click().run()
    assert not at.exception
    _, data = scenes()
    item = next(item for item in data.items if item.id == worst.image)
    expected = cdam.open_image(data.read(item).content)
    found = at.session_state["picture"].image
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert found.size == expected.size
    assert at.title[0].value != "Which method holds on many pictures?"


def test_pictures_of_an_allowed_folder_are_found_and_changed_ones_are_not(tmp_path, monkeypatch):
    model, _ = scenes()
    folder = tmp_path / "own"
    for name in ("zebra", "elephant"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), (200, 10, 9)).save(folder / name / "a.png")
    monkeypatch.setenv("CDAM_FOLDERS", str(folder))
    data = datasets.open_data(model, folder)
    found = show_page._find_data(model, data.digest, (str(folder),))
    assert show_page.open_image(found, "zebra/a.png").size == (40, 30)
    for name in ("../own/zebra/a.png", "zebra/b.png", "/etc/passwd", ""):
        assert show_page.open_image(found, name) is None
    (folder / "zebra" / "b.png").write_bytes(b"no picture")
    assert show_page._find_data(model, data.digest, (str(folder),)) is None
    broken = datasets.open_data(model, folder)
    assert show_page.open_image(broken, "zebra/b.png") is None


def test_a_run_is_asked_for_and_put_into_the_line(line):
    line.pace[0] = 30.0
    at = opened()
    assert "There are no runs here yet" in texts(at)
    assert "Everyone who can open this app sees its results" in texts(at)
    at.number_input(key="benchmark.limit").set_value(3)
    at.multiselect(key="benchmark.methods").set_value(["cdam", "attention"])
    at.button[0].click().run()
    assert not at.exception
    run, = runs_page.runs()
    assert (run.request.limit, run.request.methods) == (3, ("cdam", "attention"))
    assert run.request.data in datasets.BUILT_IN
    wait_for(lambda: runs_page.state(run) == RUNNING)
    at.run()
    at.button(key="benchmark.stop").click().run()
    wait_for(lambda: runs_page.state(run) == STOPPED)
    at.run()
    assert "stopped, or the server was started anew" in texts(at)
    line.pace[0] = 0.0
    at.button(key="benchmark.go_on").click().run()
    wait_for(lambda: runs_page.state(run) == DONE)
    at.run()
    assert not at.exception
    assert "stopped" not in texts(at)


def test_without_a_method_nothing_is_started(line):
    at = opened()
    at.multiselect(key="benchmark.methods").set_value([])
    at.button[0].click().run()
    assert "Choose at least one method" in texts(at)
    assert runs_page.runs() == []


def test_the_zip_comes_back_as_the_same_run_and_names_no_path(finished):
    about = json.loads((finished / "run.json").read_text())
    about["asked"] = {"data": str(finished.parent / "secret" / "scans"), "model": "scenes"}
    (finished / "run.json").write_text(json.dumps(about))
    content = show_page.zip_of(show_page.of_folder(finished))
    again = reading.read_zip(content)
    np.testing.assert_array_equal(again.value, reading.read_folder(finished).value)
    assert again.about["asked"] == {"data": "scans", "model": "scenes"}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert not any(b"secret" in archive.read(name) for name in archive.namelist())
        assert {"tables.md", "tables.csv", "figures/box.svg"} <= set(archive.namelist())
    at = opened()
    token = hashlib.sha256(content).hexdigest()
    at.file_uploader[0].set_value(("Mrs Jones.zip", content, "application/zip")).run()
    assert not at.exception
    assert at.session_state["benchmark.upload"].id == f"upload-{token}"
    assert at.selectbox(key="benchmark.shown").value == "uploaded"
    assert "Jones" not in texts(at)


@pytest.mark.parametrize(("content", "words"), [
    (b"no zip", "no readable ZIP"),
    ("only run.json", "There is no results.parquet"),
    ("foreign", "cannot be decoded"),
])
def test_what_is_no_run_is_refused_and_the_page_stays(shared, content, words):
    if isinstance(content, str):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("run.json", "{}")
            if content == "foreign":
                archive.writestr("results.parquet", "PAR1 not at all PAR1")
        content = buffer.getvalue()
    at = opened()
    at.file_uploader[0].set_value(("x.zip", content, "application/zip")).run()
    assert not at.exception
    assert words in texts(at)
    assert "There are no runs here yet" in texts(at)


def test_a_run_of_the_command_line_that_is_not_finished_is_not_called_stopped(finished):
    about = json.loads((finished / "run.json").read_text()) | {"finished": False}
    (finished / "run.json").write_text(json.dumps(about))
    at = opened()
    assert "It was started on the command line: it may be at work there" in texts(at)
    assert not [button for button in at.button if button.key == "benchmark.go_on"]
    assert "stopped" not in texts(at)


def test_a_run_with_damaged_results_says_so(finished):
    (finished / "results.parquet").write_bytes(b"PAR1")
    at = opened()
    assert "results.parquet cannot be decoded" in texts(at)


# ---- the real command ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_command_runs_from_the_page_to_the_tables(shared, monkeypatch):
    monkeypatch.setattr(runs_page, "line", Line())
    run = runs_page.create(Request("scenes", 84, "scenes:pairs", ("cdam", "attention"), 1,
                                   "default", 4, 4))  # fmt: skip
    runs_page.line.add(run, "a")
    wait_for(lambda: runs_page.state(run) in (DONE, FAILED, STOPPED), 300)
    assert runs_page.state(run) == DONE, runs_page.why_failed(run)
    assert runs_page.progress(run).done == runs_page.progress(run).total == 1
    assert (run.folder / "tables.md").read_text().startswith("# Benchmark · SIMULATED DATA")
    assert (run.folder / "figures" / "fidelity.svg").is_file()
    at = opened()
    frame = tabled(at, "Correctness: fidelity and box sensitivity")
    assert list(frame["Method"]) == ["CDAM", "Attention map", "Random order"]
    assert any(key.startswith("benchmark.open.Best") for key in
               (button.key or "" for button in at.button))  # fmt: skip
    assert Run(Path(run.folder), run.request) == run
