"""The client of an engine, at the moment at which a lease ends and is dropped at once."""

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest

from unirun._far_client import Client

SOON = 10


class Future:
    """What an engine gives for a lease."""

    def __init__(self) -> None:
        self.withdrawn = False
        self.ended: Callable[[Future], None]

    def add_done_callback(self, callback: Callable[["Future"], None]) -> None:
        self.ended = callback


class Engine(Client):
    """Its reports take until the test lets them be."""

    engine = "Pretended"

    def __init__(self) -> None:
        super().__init__(self, {})  # type: ignore[arg-type]  # it is its own pipe
        self.said: list[tuple[Any, ...]] = []
        self.fetching, self.fetched = Event(), Event()
        self.future = Future()

    def send(self, *message: Any) -> None:
        self.said.append(message)

    def submit(self, ticket: bytes, lease: int, needs: dict[str, float]) -> Future:
        return self.future

    def withdraw(self, future: Future) -> None:
        future.withdrawn = True

    def report(self, future: Future) -> str:
        self.fetching.set()
        assert self.fetched.wait(SOON)
        return "could not import"

    def connect(self) -> dict[str, Any]:
        raise AssertionError("not for these tests")

    trouble = info = disconnect = connect  # type: ignore[assignment]


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine._ask("run", b"", [(7, {})])
    return engine


def test_a_lease_is_not_withdrawn_while_its_report_is_fetched(engine: Engine) -> None:
    """Dask wrote "Couldn't gather 1 keys" into the stderr of the program."""
    ending = Thread(target=engine.future.ended, args=(engine.future,))
    ending.start()
    assert engine.fetching.wait(SOON)
    engine._drop("run", 7)
    engine.fetched.set()
    ending.join(SOON)
    assert engine.said == [("gone", "run", 7, "could not import")]
    assert not engine.future.withdrawn


def test_the_report_of_a_lease_that_was_withdrawn_is_not_fetched(engine: Engine) -> None:
    engine._drop("run", 7)
    engine.future.ended(engine.future)
    assert engine.future.withdrawn
    assert engine.said == [("gone", "run", 7, "")]
    assert not engine.fetching.is_set()
