"""The shelf of what was computed: exact bytes, who owns what, one computation for all who ask."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from pages import _cache, _state
from pages._cache import HOUSE, Shelf, size_of
from pages._samples import samples
from pages._settings import settings
from tests.test_gate import wait_until


def array(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


@dataclass
class Both:
    numbers: np.ndarray
    words: dict[str, str]


@pytest.mark.parametrize(("value", "size"), [
    (array(1000), 1000), (np.zeros((3, 5), np.float32), 60), (torch.zeros(7, 2), 56),
    (torch.zeros(4, dtype=torch.float16), 8), (Image.new("RGB", (20, 10)), 600),
    (Image.new("RGBA", (4, 4)), 64), ("four", 4), (None, 0), (3.5, 0),
    ([array(5), (array(6), "ab")], 13), (Both(array(8), {"key": "seven77"}), 15),
])  # fmt: skip
def test_the_size_of_a_value_is_that_of_its_arrays_pictures_and_texts(value, size):
    assert size_of(value) == size


def test_an_encoded_picture_weighs_its_tokens_and_what_is_drawn():
    prepared = _state.prepare("scenes", _state._sample_picture(next(iter(samples()))))
    tokens = prepared.encoding.tokens
    parts = [tokens.numel() * tokens.element_size(), prepared.encoding.content.nbytes,
             prepared.view.width * prepared.view.height * 3, prepared.logits.nbytes,
             prepared.outlines.width * prepared.outlines.height * 4,
             *(region.nbytes for region in prepared.regions.values())]  # fmt: skip
    assert size_of(prepared) == sum(parts) > 500_000


def test_beyond_the_budget_goes_what_was_not_asked_for_longest():
    shelf = Shelf(100)
    for name, size in (("a", 40), ("b", 30), ("c", 30)):
        shelf.get(name, lambda size=size: array(size), name)
    assert (shelf.bytes, len(shelf)) == (100, 3)  # exactly full is not too much
    shelf.get("a", pytest.fail)
    shelf.get("d", lambda: array(1))
    assert (shelf.bytes, shelf.owners()) == (71, {"a", "c"})  # b was the oldest
    shelf.get("e", lambda: array(60))
    assert (shelf.bytes, shelf.owners()) == (61, set())


def test_what_is_larger_than_the_budget_is_made_and_not_kept():
    shelf = Shelf(100)
    shelf.get("a", lambda: array(100), "one")
    assert len(shelf.get("b", lambda: array(101), "one")) == 101
    assert shelf.bytes == 100


def test_the_budget_is_the_administrators():
    assert _cache.shelf.budget == settings().computing.cache_mb * 2**20 == 512 * 2**20


def test_a_thing_stays_until_its_last_owner_is_gone():
    shelf = Shelf(100)
    for owner in ("one", "two"):
        shelf.get(("prepared", "same"), lambda: array(10), owner)
    shelf.get(("prepared", "own"), lambda: array(20), "one")
    shelf.get(("latent", "own"), lambda: array(5), "one")
    shelf.get(("prepared", "sample"), lambda: array(1), HOUSE)
    shelf.get(("prepared", "sample"), pytest.fail, "one")
    shelf.forget("one", "prepared")
    assert (shelf.bytes, shelf.owners()) == (16, {"one", "two"})
    shelf.forget("one")
    shelf.forget("two")
    assert (shelf.bytes, shelf.owners()) == (1, set())


def test_those_who_ask_for_the_same_wait_for_the_first():
    shelf, begun, may_go, found = Shelf(100), threading.Event(), threading.Event(), []

    def make():
        assert not begun.is_set()
        begun.set()
        may_go.wait(5)
        return array(3)

    def ask(owner):
        found.append(shelf.get("key", make, owner))

    people = [threading.Thread(target=ask, args=(f"{number}",)) for number in range(4)]
    for each in people:
        each.start()
        begun.wait(5)
    wait_until(lambda: len(shelf.owners()) == 4)
    may_go.set()
    for each in people:
        each.join(5)
    assert len(found) == 4
    assert all(each is found[0] for each in found)
    assert shelf.bytes == 3


def test_where_the_first_fails_the_next_one_makes_it():
    shelf, begun, may_fail, failed = Shelf(100), threading.Event(), threading.Event(), []

    def fail():
        begun.set()
        may_fail.wait(5)
        raise KeyboardInterrupt  # as when a visitor leaves: no Exception

    def ask():
        try:
            shelf.get("key", fail, "leaves")
        except KeyboardInterrupt:
            failed.append(True)

    first = threading.Thread(target=ask)
    first.start()
    begun.wait(5)
    threading.Timer(0.05, may_fail.set).start()
    assert len(shelf.get("key", lambda: array(2), "stays")) == 2
    first.join(5)
    assert failed == [True]
    assert shelf.owners() == {"stays"}


def test_who_clicks_on_does_not_wait_for_anothers_computation():
    class Left(BaseException):
        pass

    def leave():
        raise Left

    shelf, begun, may_go = Shelf(100), threading.Event(), threading.Event()
    first = threading.Thread(target=lambda: shelf.get(
        "key", lambda: (begun.set(), may_go.wait(5), array(1))[2], "one"))
    first.start()
    begun.wait(5)
    with pytest.raises(Left):
        shelf.get("key", pytest.fail, "two", leave)
    may_go.set()
    first.join(5)


def test_what_is_forgotten_while_it_is_made_is_not_kept():
    shelf = Shelf(100)

    def make():
        shelf.forget("one")
        return array(9)

    assert len(shelf.get("key", make, "one")) == 9
    assert (shelf.bytes, shelf.owners()) == (0, set())
