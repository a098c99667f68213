"""The log without content, error ids, and the page Server, without a server."""

import io
import json
import logging
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from pages import _access, _errors, _operations
from pages._frame import FOLDER, SERVER
from pages._settings import parse

FRAME = FOLDER / "_frame.py"
SECRET = "Anna Example, born 1970\n2026-01-01 ERROR forged"
PROXY = parse('[access]\nidentity = "proxy"\nallowed = ["*"]\nadministrators = ["anna"]')
OPEN = parse("")


# ---- the log -------------------------------------------------------------------------------------


def failure() -> ValueError:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        return error


def logged(form: str) -> list[str]:
    """What the app's log says of an error and of a plain remark."""
    root = logging.getLogger()
    before = list(root.handlers)
    _errors.prepare_logging(form)
    ours = next(each for each in root.handlers if each not in before)
    out = io.StringIO()
    ours.setStream(out)
    logging.getLogger(_errors.FAILURES).error("Uncaught: %s", SECRET, exc_info=failure())
    logging.getLogger("streamlit.cdam.test").warning("One\nremark.")
    root.removeHandler(ours)
    return out.getvalue().splitlines()


def test_a_line_of_the_log_has_the_id_that_the_visitor_sees_and_nothing_else_of_it():
    error, remark = logged("text")
    name = _errors.error_id(failure())
    assert error.split(" ", 1)[1].startswith(f"ERROR {_errors.FAILURES}: Error {name}: ValueError ")
    assert "test_operations.py:" in error
    assert remark.endswith(" WARNING streamlit.cdam.test: One remark.")  # in one line
    assert not any(part in error for part in ("Anna", "1970", "forged"))


def test_as_json_every_entry_is_one_object():
    error, remark = map(json.loads, logged("json"))
    assert error["error_id"] == _errors.error_id(failure())
    assert error["places"][0] == "ValueError"
    assert (error["level"], error["logger"]) == ("ERROR", _errors.FAILURES)
    assert set(remark) == {"time", "level", "logger", "message"}
    assert remark["message"] == "One\nremark."
    assert "Anna" not in json.dumps(error)


def test_preparing_twice_writes_everything_once():
    root = logging.getLogger()
    before = list(root.handlers)
    for form in ("text", "json", "text"):
        _errors.prepare_logging(form)
    ours = [each for each in root.handlers if each not in before]
    assert [type(each.formatter) for each in ours] == [_errors.Text]
    root.removeHandler(ours[0])


def test_the_latest_errors_are_remembered_without_their_messages():
    logged("text")
    latest = _errors.recent()[0]
    assert latest.id == _errors.error_id(failure())
    assert "Anna" not in repr(latest)
    assert len(_errors.recent()) <= _errors.REMEMBERED


# ---- the page Server -----------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "name", "headers", "is_let_in"), [
    (OPEN, None, {}, True),
    (OPEN, None, {"X-Forwarded-For": "10.0.0.7"}, False),  # behind a proxy, it could be anybody
    (OPEN, None, {"Forwarded": "for=10.0.0.7"}, False),
    (parse("[access]\nopen_to_network = true"), None, {}, False),
    (PROXY, "anna", {"X-Forwarded-For": "10.0.0.7"}, True),
    (PROXY, "berta", {}, False),
    (PROXY, None, {}, False),
])  # fmt: skip
def test_who_may_see_how_the_server_is_doing(monkeypatch, settings, name, headers, is_let_in):
    monkeypatch.setattr(_operations, "settings", lambda: settings)
    monkeypatch.setattr(_access, "user", lambda: name)
    came = SimpleNamespace(context=SimpleNamespace(headers=headers))
    monkeypatch.setattr(_operations, "st", came)
    assert _operations.is_for_visitor() == is_let_in


@pytest.fixture
def report(monkeypatch):
    """A report with an error in it."""
    met = (_errors.Met("2026-01-31T10:20:30+00:00", "1f3a90c2", ("ValueError", "a.py:1")),)
    found = _operations.Report("ready", 0.0, 7, 2, 1, 3, 900 * 2**20, 100 * 2**20, 512 * 2**20,
                               5 * 2**20, 6 * 2**20, ("scenes",), {"CDAM Explorer": "1"}, met)
    monkeypatch.setattr(_operations, "report", lambda: found)


def opened(page: str) -> AppTest:
    at = AppTest.from_file(str(FRAME), default_timeout=60).run()
    return at.switch_page(str(FOLDER / page)).run()


def test_an_administrator_sees_numbers_and_error_ids(report):
    at = opened(SERVER.file)
    assert not at.exception
    shown = {each.label: each.value for each in at.metric}
    assert shown == {
        "Open tabs": "7", "Closed tabs": "2", "Jobs at work": "1", "Jobs in line": "3",
        "Memory": "900 MB", "Encodings and maps": "100 MB", "Uploads waiting": "5 MB",
        "Files to fetch": "6 MB",
    }  # fmt: skip
    assert list(at.dataframe[0].value["Error id"]) == ["1f3a90c2"]


def test_for_others_there_is_no_such_page(report, monkeypatch):
    monkeypatch.setattr(_operations, "is_for_visitor", lambda: False)
    with pytest.raises(ValueError, match="Could not find a navigation page"):
        opened(SERVER.file)
    at = AppTest.from_file(str(FOLDER / SERVER.file))
    at.session_state["frame"] = True  # and if it were run all the same
    at.run()
    assert not at.metric
    assert "administrators" in at.error[0].value
