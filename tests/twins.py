"""The standard executors and ours, asked the same questions."""

import concurrent.futures
import logging
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import pytest

from unirun import Executor

Make = Callable[..., concurrent.futures.Executor]
SPAWN = multiprocessing.get_context("spawn")


class Twins(NamedTuple):
    ours: Make
    theirs: Make


THREADS = Twins(partial(Executor, backend="thread"), ThreadPoolExecutor)
PROCESSES = Twins(
    partial(Executor, backend="process"), partial(ProcessPoolExecutor, mp_context=SPAWN)
)
BOTH = pytest.mark.parametrize("twins", [THREADS, PROCESSES], ids=["thread", "process"])


@pytest.fixture(autouse=True)
def without_a_main_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that multiprocessing spawns import the main module again: not pytest, please."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)


def ask(make: Make, question: Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:
    """The answer, or the exception."""
    logging.getLogger("concurrent.futures").addHandler(_quiet)
    try:
        with make(*args, **kwargs) as executor:
            return question(executor)
    except BaseException as exc:
        return exc
    finally:
        logging.getLogger("concurrent.futures").removeHandler(_quiet)


_quiet = logging.NullHandler()


def assert_alike(ours: Any, theirs: Any) -> None:
    """An exception of ours is of the type of theirs; everything else is equal."""
    if isinstance(theirs, BaseException):
        assert isinstance(ours, type(theirs)), f"ours {ours!r}, theirs {theirs!r}"
    else:
        assert ours == theirs
        assert type(ours) is type(theirs)
