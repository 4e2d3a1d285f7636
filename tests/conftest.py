"""Every test proves that it leaves nothing behind: no process, thread, descriptor or variable.

A worker process can import what stands at the top of a test file and in tests/apps/ (see
`pythonpath` in pyproject.toml); a program that a test starts as a process lies in tests/apps/.
"""

import gc
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import again
import psutil
import pytest
import reliability_table
from parties import (
    MAPPINGS,
    NEVER_IN_CELLS,
    SERVED_BY,
    DistantParty,
    Mapping,
    ProcessParty,
    be_served_by,
    distant_threads,
    process_parties,
)

import unirun
from unirun._config import reset
from unirun._manager import Manager
from unirun._robust import find
from unirun.sync import make_shared, make_thread
from unirun.testing import Gate

GRACE = 5.0  # seconds that what a test has ended may take to go away
FD_SLACK = 2  # descriptors that the standard library opens once and keeps

# In the environment of every program started from here. A process whose parent has died is
# nobody's child any more; this still tells whose it is.
MARK = "TESTS_OF_UNIRUN"
os.environ[MARK] = str(os.getpid())
BEGAN = psutil.Process().create_time()

# Kept by multiprocessing for the life of the process that first needed them.
STANDARD_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def pytest_addoption(parser: pytest.Parser) -> None:
    reliability_table.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    reliability_table.register(config)


def pytest_report_header() -> str:
    return f"unirun: {Path(unirun.__file__).parent}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Try only once what no cell has a part in, and by default each claim in one place only."""
    again.mark(items)
    reliability_table.tell_scenarios(items)
    kept, spare = [], []
    for item in items:
        (spare if _is_spare(getattr(item, "callspec", None)) else kept).append(item)
    config.hook.pytest_deselected(items=spare)
    items[:] = kept


def _is_spare(callspec: Any) -> bool:
    params = {} if callspec is None else callspec.params
    alone = params.get("mapping") == "thread" or params.get("kind") in NEVER_IN_CELLS
    return bool(find()) and params.get("served_by") == "server" and alone


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves something behind. Set up first, so it looks after all the others."""
    processes, threads, fds, variables = _processes(), _threads(), _fds(), _variables()
    handler, trace = signal.getsignal(signal.SIGINT), sys.gettrace()
    yield
    _end_default_executor()
    left = _left_processes(processes)
    if marker := request.node.get_closest_marker("leaks"):
        assert marker.args, "say why: @pytest.mark.leaks('reason')"
        return
    left += _left_threads(threads) + _left_fds(fds) + _left_variables(variables)
    if signal.getsignal(signal.SIGINT) is not handler:
        left.append(f"a handler of SIGINT: {signal.signal(signal.SIGINT, handler)}")
    if sys.gettrace() is not trace:
        left.append(f"a trace function: {sys.gettrace()}")
    assert not left, "the test leaves behind:\n  " + "\n  ".join(left)


@pytest.fixture(autouse=True, scope="module")
def module_leaves_no_process() -> Iterator[None]:
    """The same for what the fixtures of a whole module start: each test finds it there already."""
    before = _processes()
    yield
    left = _left_processes(before)
    assert not left, "the module leaves behind:\n  " + "\n  ".join(left)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty working directory, and no setting from outside or from another test."""
    for variable in [name for name in os.environ if name.startswith("UNIRUN_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    reset()
    yield tmp_path
    monkeypatch.undo()
    reset()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Closed: calls begin and wait at it until the test lets them go on."""
    with Gate() as gate:
        yield gate


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for that of a socket, which has at most 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="u-") as path:
        yield Path(path)


# -- who takes part in a test of shared objects, see parties.py --------------------------------


@pytest.fixture(scope="module", params=SERVED_BY)
def served_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """Who serves requests on shared objects, in every process of the test."""
    with pytest.MonkeyPatch.context() as patch:
        be_served_by(request.param, patch)
        yield request.param


@pytest.fixture(scope="module")
def processes(served_by: str) -> Iterator[list[ProcessParty]]:
    """Three for all tests of a module: make sure to leave none in a call."""
    with process_parties(3) as parties:
        yield parties


@pytest.fixture(scope="module")
def distant(served_by: str) -> Iterator[list[DistantParty]]:
    """Three threads of one other process, likewise."""
    with distant_threads(3) as parties:
        yield parties


@pytest.fixture
def party(served_by: str) -> Iterator[ProcessParty]:
    """A process of the test's own, to be killed."""
    with process_parties(1) as [party]:
        yield party


@pytest.fixture
def other(served_by: str) -> Iterator[ProcessParty]:
    with process_parties(1) as [party]:
        yield party


@pytest.fixture
def manager(served_by: str) -> Iterator[Manager]:
    manager = Manager()
    yield manager
    manager.close()


@pytest.fixture
def make(manager: Manager) -> Callable[..., Any]:
    return lambda kind, /, *args, **kwargs: make_shared(manager, kind, *args, **kwargs)


@pytest.fixture(params=MAPPINGS)
def mapping(
    request: pytest.FixtureRequest, processes: list[ProcessParty], distant: list[DistantParty]
) -> Mapping:
    # Both kinds of parties are up before the leak check of the first test, which would
    # otherwise take them for leaks.
    if request.param == "thread":
        return Mapping(make_thread)
    parties = {"processes": processes, "distant": distant}.get(request.param)
    return Mapping(request.getfixturevalue("make"), parties)


# -- what a test leaves behind -----------------------------------------------------------------


def _end_default_executor() -> None:
    """The one object of a module that lives until exit, by design; each test begins without it."""
    module = sys.modules.get("unirun._executor")
    if module is not None and module._default is not None:
        module._default.shutdown(kill=True, timeout=GRACE)
        module._default = None


_strangers: set[int] = set()  # pids that were looked at once, and are not ours


def _processes() -> set[psutil.Process]:
    """Our descendants, also those whose parents are gone; the helpers of the stdlib excepted.

    Only what has not been seen before is looked at: this happens twice for each test.
    """
    found = set()
    pids = set(psutil.pids())
    _strangers.intersection_update(pids)
    for pid in pids - _strangers - {os.getpid()}:
        try:
            process = psutil.Process(pid)
            if (_is_descendant(process) or _is_marked(process)) and not _is_standard_helper(
                process
            ):
                found.add(process)
                continue
        except psutil.Error:
            pass  # gone
        _strangers.add(pid)
    return found


def _is_descendant(process: psutil.Process) -> bool:
    parent = process.ppid()
    while parent not in (0, 1, os.getpid()):
        parent = psutil.Process(parent).ppid()
    return parent == os.getpid()


def _is_marked(process: psutil.Process) -> bool:
    try:
        younger = process.create_time() >= BEGAN  # spares reading most of the system
        return younger and process.environ().get(MARK) == os.environ[MARK]
    except (psutil.Error, OSError):
        return False  # somebody else's, or gone: no orphan of ours that still runs


def _is_standard_helper(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False  # a zombie has no command line
    return any(name in command for name in STANDARD_HELPERS)


def _left_processes(before: set[psutil.Process]) -> list[str]:
    # Not psutil.wait_procs: it would reap the zombies that we are looking for.
    end = time.monotonic() + GRACE
    while (new := _processes() - before) and time.monotonic() < end:
        gc.collect()  # what a reference cycle holds is late, not lost
        time.sleep(0.02)
    left = []
    for process in new:
        described = _describe(process)
        try:
            process.kill()  # the next test shall not suffer for it
        except psutil.NoSuchProcess:
            continue  # it was slow, and has ended
        left.append(described)
    psutil.wait_procs(new, timeout=GRACE)
    return left


def _describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} ({process.status()}): {' '.join(process.cmdline())[:120]}"
    except psutil.Error as exc:
        return f"process {process.pid}: {exc}"


def _threads() -> set[threading.Thread]:
    # A dummy stands for a thread that threading did not start; Python 3.11 never removes it.
    return {t for t in threading.enumerate() if not isinstance(t, threading._DummyThread)}


def _left_threads(before: set[threading.Thread]) -> list[str]:
    end = time.monotonic() + GRACE
    while (new := _threads() - before) and time.monotonic() < end:
        gc.collect()  # as above
        new.pop().join(0.1)
    return [f"thread {thread.name}" for thread in _threads() - before]


def _fds() -> dict[int, str]:
    """What each descriptor of this process points to; nothing where the system does not tell."""
    table = Path("/proc/self/fd")
    found = {}
    for entry in list(table.iterdir()) if table.is_dir() else ():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            continue  # the descriptor that the listing itself used
    return found


def _left_fds(before: dict[int, str]) -> list[str]:
    if len(_new_fds(before)) > FD_SLACK:
        gc.collect()  # as above
    new = _new_fds(before)
    return new if len(new) > FD_SLACK else []


def _new_fds(before: dict[int, str]) -> list[str]:
    return [f"fd {fd}: {to}" for fd, to in _fds().items() if before.get(fd) != to]


def _variables() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}


def _left_variables(before: dict[str, str]) -> list[str]:
    after = _variables()
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    for name in changed:
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]
    return [f"variable {name}={after.get(name)!r}, was {before.get(name)!r}" for name in changed]
