"""What other systems lack is taken away here, and the pool is as good without it.

Each program runs with `UNIRUN_WITHOUT` set, so that everything in it, workers included, takes the
portable way; see `system` for what that is.
"""

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from process import watch
from process.line import Line

from unirun.backends.process import system

ALL = ",".join(system.FEATURES)
Lines = Callable[[], Line]


@pytest.fixture(params=[*system.FEATURES, ALL], ids=[*system.FEATURES, "all"])
def without(request: pytest.FixtureRequest) -> dict[str, str]:
    return watch.with_tests_on_path() | {"UNIRUN_WITHOUT": str(request.param)}


LIFE = """
import os, signal, sys, unirun
from process import bodies, watch
from process.line import Line
from unirun.backends.process import system

lacking = set(os.environ["UNIRUN_WITHOUT"].split(","))
assert not lacking & system.HERE
os.mkfifo("line")
line = Line(os.path.abspath("line"))
line.keep_open()
executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1], grace=0.1)
assert list(executor.map(bodies.double, range(300))) == [2 * n for n in range(300)]
assert set(system.FEATURES) - lacking >= executor.submit(lambda: system.HERE).result(20)

crash = executor.submit(bodies.by_sigkill).exception(20)
assert type(crash) is unirun.WorkerCrashed, crash

for body in bodies.sleep, bodies.ignore_sigterm:
    future = executor.submit(body, line)
    pid = int(line.wait())
    assert future.kill() and watch.is_gone(pid)

future = executor.submit(bodies.start_children, line)
family = [int(word) for word in line.wait().split()]
assert len(family) > 1
assert future.kill()
watch.until_gone(*family)

late = executor.options(timeout=0.2).submit(bodies.sleep, line)
pid = int(line.wait())
assert type(late.exception(20)) is unirun.TaskTimeout
assert watch.is_gone(pid)

data = os.urandom(3_000_000)
assert executor.submit(bodies.echo, data).result(20) == data
running = executor.submit(bodies.sleep, line)
pid = int(line.wait())
executor.kill_workers()
unirun.wait([running], 20)
assert running.cancelled()
assert executor.submit(bodies.double, 4).result(20) == 8
workers = executor.stats()["process"].pids
executor.shutdown()
watch.until_gone(pid, *workers)
print("fine")
"""


@pytest.mark.scenario("without memfd, /proc, pidfd, epoll …", "each by itself and all at once")
@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_calls_crashes_kills_and_timeouts_without(
    without: dict[str, str], method: str, tmp_path: Path
) -> None:
    done = watch.run(tmp_path, LIFE, method, env=without, timeout=50)
    assert (done.stdout, done.stderr) == ("fine\n", "")


PARENT = """
import os, signal, sys, unirun
from process import bodies
from process.line import Line

executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1])
idle = executor.submit(bodies.pid).result(20)
busy = executor.submit(bodies.start_a_child, Line(sys.argv[2]))
family = [int(word) for word in Line(sys.argv[2]).wait().split()]
parent = executor.submit(bodies.parent).result(20)
print(*family, *executor.stats()["process"].pids, *({parent} - {os.getpid()}), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_nothing_outlives_a_parent_that_was_killed_without(
    without: dict[str, str], method: str, tmp_path: Path, line: Lines
) -> None:
    done = watch.run(tmp_path, PARENT, method, line().path, env=without)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(set(pids)) >= 3
    watch.until_gone(*pids, timeout=5)


# -- the seam itself ------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["with", "without"])
def has_memfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(system, "HERE", system.HERE - {"memfd"})
    elif "memfd" not in system.HERE:
        pytest.skip("this system has none")
    return bool(request.param)


def test_memory_is_of_its_size_empty_and_without_a_name(has_memfd: bool) -> None:
    fd = system.make_memory(10_000)
    try:
        assert os.fstat(fd).st_size == 10_000
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 10_000, 0) == bytes(10_000)
        assert not os.get_inheritable(fd)
        assert stat.S_ISREG(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def test_memory_that_cannot_be_had_leaves_no_descriptor(has_memfd: bool) -> None:
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match="Invalid argument"):
        system.make_memory(-1)
    assert psutil.Process().num_fds() == before


def test_a_feature_that_is_misspelt_is_named(tmp_path: Path) -> None:
    source = "import unirun; unirun.Executor(backend='process').submit(len, 'x').result(20)"
    done = watch.run(tmp_path, source, env=os.environ | {"UNIRUN_WITHOUT": "epol"})
    assert done.returncode == 1
    assert "UNIRUN_WITHOUT: unknown feature 'epol'; use some of epoll, pidfd" in done.stderr
