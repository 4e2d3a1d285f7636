"""What strict inline reports of calls that wait for their caller, who waits for them."""

import threading
import warnings
from typing import Any

import findings
import pytest
from findings import line_of

from unirun import StrictWarning, _hangs

executor, found = findings.executor, findings.found


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that were there before, those of xdist say, are not what ends a wait in here."""
    enumerate_all, before = threading.enumerate, threading.enumerate()
    monkeypatch.setattr(
        threading, "enumerate", lambda: [each for each in enumerate_all() if each not in before]
    )


def wait_for(event: threading.Event) -> None:
    event.wait()  # for ever


def get_from(items: Any) -> Any:
    return items.get()  # an item


@pytest.mark.parametrize(
    ("fn", "kind", "line"),
    [(wait_for, "Event", "for ever"), (get_from, "Queue", "an item")],
    ids=["event", "queue"],
)
def test_a_wait_for_what_only_the_caller_would_do_is_reported(
    executor, monkeypatch, fn, kind, line
):
    monkeypatch.setattr(_hangs, "warn_after", 0.05)
    shared = getattr(executor, kind)()
    told = []

    def tell(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        told.append((str(message), lineno))
        shared.put(1) if kind == "Queue" else shared.set()

    with warnings.catch_warnings():
        warnings.simplefilter("always", StrictWarning)
        monkeypatch.setattr(warnings, "showwarning", tell)
        executor.submit(fn, shared).result()
    ((text, number),) = told
    assert number == line_of(__file__, line)
    assert text.startswith(f"[inline-order] test_strict_order.{fn.__name__} waits here")


def test_a_wait_that_another_thread_can_end_is_not_reported(executor, found, monkeypatch):
    monkeypatch.setattr(_hangs, "warn_after", 0.02)
    event, over = executor.Event(), threading.Event()

    def end_it() -> None:
        over.wait(0.3)  # some looks
        event.set()
        over.wait()

    other = threading.Thread(target=end_it)
    other.start()
    try:
        executor.submit(wait_for, event).result()
    finally:
        over.set()
        other.join()
    assert found == []
