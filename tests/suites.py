"""Small test suites that tests of the pytest plugin run, in a pytest within theirs."""

import gc
import re
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest

from unirun import Timer, _ending, _lasting
from unirun.testing import plugin

Run = Callable[..., pytest.RunResult]
PATIENCE = 20
# What takes longer to load than the suites take to run.
QUICK = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "xdist", "timeout")]

SUITE = """
import concurrent.futures, os, threading, time, unittest
import pytest, unirun
from unirun import Activity, Executor, Timer

KEPT = []

def keep(thing):
    KEPT.append(thing)
    return thing
"""


class Inside:
    """What a suite inside gets from the test around it."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.imported: dict[str, Any] = {}

    @pytest.fixture
    def gate(self) -> threading.Event:
        """Where calls wait until the test around it is over."""
        return self.event

    def pytest_unconfigure(self) -> None:
        ours = [name for name in sys.modules if name.partition(".")[0] == "unirun"]
        self.imported = {name: sys.modules[name] for name in ours}


@pytest.fixture
def inside() -> Iterator[Inside]:
    """Set up before `pytester`, which forgets what was imported since: of unirun there is one."""
    inside = Inside()
    yield inside
    sys.modules.update({**inside.imported, **sys.modules})


@pytest.fixture
def suite(
    inside: Inside, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Runs tests with the plugin, be that installed or not; nothing of them stays."""
    for name in ("UNIRUN_BACKEND", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    before = set(_ending._open)
    installed = entry_points(group="pytest11", name="unirun")

    def run(code: str, *args: str, ini: str = "", conftest: str = "") -> pytest.RunResult:
        grace = "" if "grace" in ini else "unirun_leak_grace = 0.2"
        pytester.makeini(f"[pytest]\n{grace}\n{ini}")
        pytester.makeconftest(conftest)
        pytester.makepyfile(test_it=SUITE + code)
        plugins: list[Any] = [inside] if installed else [inside, plugin]
        return pytester.runpytest_inprocess(*QUICK, *args, plugins=plugins)

    yield run
    inside.event.set()
    for executor in set(_ending._open) - before:
        executor.shutdown(kill=True)
    for item in list(_lasting._lasting.values()):
        item.cancel() if isinstance(item, Timer) else item._end_now()
        item.join(PATIENCE)
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)  # of a test that has failed inside, with its frames
    gc.collect()


def text_of(result: pytest.RunResult) -> str:
    return re.sub(r"\s+", " ", result.stdout.str())
