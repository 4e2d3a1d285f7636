"""How workers come to life, what they find there, and when they are replaced."""

import multiprocessing
import os
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from process import bodies, watch
from process.line import PATIENCE, Line

import unirun
from unirun import InitializerFailed

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


# -- start methods ------------------------------------------------------------------------------


def test_workers_come_from_where_the_start_method_says(pool: Pool, method: str) -> None:
    parent = pool(1, method).submit(bodies.parent).result(PATIENCE)
    if method == "zygote":
        assert psutil.Process(parent).ppid() == os.getpid()
    else:
        assert parent == os.getpid()


@pytest.mark.parametrize("name", ["spawn", "fork", "forkserver"])
def test_contexts_of_multiprocessing_are_understood(pool: Pool, name: str) -> None:
    executor = pool(1, multiprocessing.get_context(name))
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


def test_a_worker_leads_a_session_and_ignores_ctrl_c(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    pid = executor.submit(bodies.pid).result(PATIENCE)
    assert os.getsid(pid) == os.getpgid(pid) == pid
    os.kill(pid, 2)
    assert executor.submit(bodies.pid).result(PATIENCE) == pid


def test_workers_are_started_as_work_needs_them(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(3), line(), line()
    assert executor.stats() == {}
    for _ in range(20):
        executor.submit(bodies.pid).result(PATIENCE)
    assert executor.stats()["process"].workers == 1
    futures = [executor.submit(bodies.wait_for, go, ready) for _ in range(3)]
    assert len({ready.wait() for _ in futures}) == 3
    for _ in futures:
        go.send()
    executor.shutdown()


def test_more_starts_than_the_zygote_can_be_told_of_at_once() -> None:
    """The socket to it holds some hundred messages; while it is busy, the others wait here."""
    from unirun.backends.process.launch import Exited, Started, ZygoteLauncher

    launcher, told, gone = ZygoteLauncher(()), set(), set()
    launcher.attach(lambda _: None, lambda _: None)
    reader, writer = os.pipe()
    os.close(writer)  # what a worker reads has ended: it leaves at once
    null = os.open(os.devnull, os.O_WRONLY)
    launcher.start(0, (reader, null, reader))
    zygote = psutil.Process(launcher._pid)
    zygote.suspend()
    for number in range(1, 400):
        launcher.start(number, (reader, null, reader))
    zygote.resume()

    def hear() -> bool:
        for news in launcher.news():
            assert isinstance(news, (Started, Exited)), news
            (told if isinstance(news, Started) else gone).add(news.worker)
        return len(gone) == 400

    try:
        watch.until(hear, "all have come and gone", timeout=40)
        assert told == gone
    finally:
        launcher.close()
        os.close(reader)
        os.close(null)


def test_a_zygote_that_was_begun_is_used_once_or_ended() -> None:
    from unirun.backends.process import early, launch

    drop_used, drop_unused = early.begin(), early.begin()
    used, unused = (psutil.Process(pid) for pid, _ in early._begun)
    launcher = launch.ZygoteLauncher(())
    drop_used()
    assert watch.is_gone(unused.pid) is watch.is_gone(used.pid) is False
    drop_unused()
    drop_unused()
    assert watch.is_gone(unused.pid)
    assert early.claim() is None
    launcher.close()
    assert watch.is_gone(used.pid)


def test_a_backend_can_be_begun_by_name_and_only_where_that_means_something() -> None:
    from unirun import _registry

    assert _registry.begin("thread") is None
    assert _registry.begin(None) is None
    drop = _registry.begin("process")
    assert drop is not None
    drop()


# -- what a worker finds ------------------------------------------------------------------------


def test_preloaded_modules_are_there_before_the_first_call(pool: Pool, method: str) -> None:
    name = "mailbox"
    assert not pool(1, method).submit(bodies.loaded, name).result(PATIENCE) or method == "fork"
    executor = pool(1, method, preload=["json.tool", name])
    assert executor.submit(bodies.loaded, name).result(PATIENCE)
    assert executor.submit(bodies.loaded, "json.tool").result(PATIENCE)


@pytest.mark.parametrize("name", ["no_such_module", "process.no_such_module"])
def test_a_module_that_cannot_be_preloaded_is_named(pool: Pool, method: str, name: str) -> None:
    executor = pool(1, method, preload=["json", name])
    with pytest.raises(InitializerFailed, match=f"cannot preload '{name}': ModuleNotFoundError"):
        executor.submit(bodies.double, 1).result(PATIENCE)


def test_a_path_added_later_reaches_every_worker(
    pool: Pool, method: str, tmp_path: Path, line: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, ready, go = pool(2, method), line(), line()
    old = executor.submit(bodies.wait_for, go, ready)
    ready.wait()
    (tmp_path / "added_later.py").write_text("VALUE = 'found'")
    monkeypatch.syspath_prepend(tmp_path)
    new = executor.submit(bodies.use_module, "added_later")
    assert new.result(PATIENCE) == "found"
    go.send()
    old.result(PATIENCE)
    assert executor.submit(bodies.use_module, "added_later").result(PATIENCE) == "found"


def test_a_path_added_while_a_worker_starts_reaches_it(
    pool: Pool, tmp_path: Path, line: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, go = line(), line()
    executor = pool(1, initializer=bodies.wait_for, initargs=(go, ready))
    future = executor.submit(bodies.use_module, "added_in_between")
    ready.wait()
    (tmp_path / "added_in_between.py").write_text("VALUE = 'found'")
    monkeypatch.syspath_prepend(tmp_path)
    go.send()
    assert future.result(PATIENCE) == "found"


def test_a_new_worker_is_where_its_parent_is(
    pool: Pool, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = pool(1, method)
    assert executor.submit(bodies.cwd).result(PATIENCE) == str(Path.cwd())
    monkeypatch.chdir(tmp_path)
    executor.kill_workers()
    assert executor.submit(bodies.cwd).result(PATIENCE) == str(tmp_path)


def test_arguments_of_the_program_may_be_anything(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [Path("program"), "x"])
    assert pool(1).submit(bodies.argv).result(PATIENCE) == ["program", "x"]
    monkeypatch.delattr(sys, "argv")
    assert pool(1).submit(bodies.double, 4).result(PATIENCE) == 8


def test_the_initializer_runs_once_in_each_worker(pool: Pool, method: str) -> None:
    executor = pool(1, method, initializer=bodies.remember, initargs=("a", 2))
    assert executor.submit(bodies.recall).result(PATIENCE) == ["a", 2]
    assert executor.submit(bodies.recall).result(PATIENCE) == ["a", 2]


def test_a_manager_of_multiprocessing_that_came_later_is_reached(
    method: str, tmp_path: Path
) -> None:
    source = """
    import operator, sys, unirun
    executor = unirun.Executor(1, backend="process", mp_context=sys.argv[1])
    assert executor.submit(pow, 2, 3).result(20) == 8
    assert "multiprocessing" not in sys.modules
    import multiprocessing
    with multiprocessing.Manager() as manager:
        shared = manager.dict(x=1)
        assert executor.submit(operator.getitem, shared, "x").result(20) == 1
        assert executor.submit(operator.getitem, shared, "x").result(20) == 1
        executor.kill_workers()
        assert executor.submit(operator.getitem, shared, "x").result(20) == 1
    executor.shutdown()
    """
    done = watch.run(tmp_path, source, method)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_lock_of_multiprocessing_is_inherited(pool: Pool) -> None:
    lock = multiprocessing.get_context("fork").Lock()
    executor = unirun.Executor(1, backend="process", initializer=bodies.remember, initargs=(lock,))
    with executor:
        assert "Lock" in executor.submit(lambda: repr(bodies.recall())).result(PATIENCE)


def test_a_function_of_a_module_that_only_exists_here(pool: Pool) -> None:
    module = types.ModuleType("only_in_memory")
    exec("class Point:\n    x = 3\ndef make():\n    return Point()\n", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        result = pool(1).submit(module.make).result(PATIENCE)
        assert isinstance(result, module.Point)
    finally:
        del sys.modules[module.__name__]


PROGRAM = """
import sys
import unirun

class Point:
    def __init__(self, x):
        self.x = x

SCALE = 3

def scale(point):
    return Point(SCALE * point.x)

def fail():
    raise Failure("on purpose")

class Failure(Exception):
    pass

print("body")
executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1])
result = executor.submit(scale, Point(2)).result(20)
assert type(result) is Point, type(result)
assert result.x == 6
try:
    executor.submit(fail).result(20)
except Failure as exc:
    assert exc.args == ("on purpose",)
assert executor.submit(lambda: [SCALE]).result(20) == [3]
"""


@pytest.mark.scenario(29, "a script without guard runs once, with every start method")
def test_a_program_needs_no_main_guard(method: str, tmp_path: Path) -> None:
    done = watch.run(tmp_path, PROGRAM, method)
    assert (done.returncode, done.stdout, done.stderr) == (0, "body\n", "")


def test_what_is_typed_is_for_the_program(method: str, tmp_path: Path) -> None:
    source = """
    import sys, unirun
    from process import bodies
    with unirun.Executor(1, backend="process", mp_context=sys.argv[1]) as executor:
        print(repr(executor.submit(bodies.read_stdin).result(20)), repr(sys.stdin.read()))
    """
    environment = watch.with_tests_on_path()
    done = watch.run(tmp_path, source, method, env=environment, input="typed")
    assert (done.stdout, done.stderr) == ("'' 'typed'\n", "")


def test_what_was_printed_before_a_fork_is_printed_once(tmp_path: Path) -> None:
    source = """
    import sys, unirun
    from process import bodies
    sys.stdout.write("once ")
    with unirun.Executor(2, backend="process", mp_context="fork") as executor:
        executor.submit(bodies.double, 1).result(20)
        executor.submit(print, "from a task").result(20)
    """
    environment = watch.with_tests_on_path()
    environment.pop("PYTHONUNBUFFERED", None)
    done = watch.run(tmp_path, source, env=environment)
    assert (done.stdout, done.stderr) == ("once from a task\n", "")


@pytest.mark.parametrize("method", ["fork", "zygote"])
def test_exit_functions_of_the_program_run_in_the_program_only(method: str, tmp_path: Path) -> None:
    source = """
    import atexit, os, sys, unirun
    from process import bodies
    atexit.register(bodies.note, "log", f"{os.getpid()}")
    with unirun.Executor(2, backend="process", mp_context=sys.argv[1]) as executor:
        executor.submit(bodies.double, 1).result(20)
    """
    done = watch.run(tmp_path, source, method, env=watch.with_tests_on_path())
    assert done.stderr == ""
    assert len((tmp_path / "log").read_text().split()) == 1


# -- unfriendly surroundings --------------------------------------------------------------------


@pytest.mark.scenario("descriptors 0 to 2 closed at the start", "everything works")
def test_a_program_without_standard_streams(method: str, tmp_path: Path) -> None:
    source = """
    import sys, unirun
    assert (sys.stdin, sys.stdout, sys.stderr) == (None, None, None)
    from process import bodies
    with unirun.Executor(2, backend="process", mp_context=sys.argv[1]) as executor:
        values = [executor.submit(bodies.double, n) for n in range(10)]
        crash = executor.submit(bodies.by_sigkill)
        text = f"{[v.result(20) for v in values]} {type(crash.exception(20)).__name__}"
        text += f" {executor.submit(print, 'x').result(20)}"
    bodies.note("out", text)
    """
    command = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *watch.script(tmp_path, source), method]
    environment = watch.with_tests_on_path()
    subprocess.run(command, cwd=tmp_path, env=environment, timeout=PATIENCE, check=True)
    assert (tmp_path / "out").read_text() == f"{[2 * n for n in range(10)]} WorkerCrashed None\n"


@pytest.mark.scenario("RLIMIT_NOFILE 64", "an error that says what to do, after 5 s")
def test_a_program_with_few_descriptors(method: str, tmp_path: Path) -> None:
    source = """
    import os, resource, sys, unirun
    from process import bodies
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with unirun.Executor(8, backend="process", mp_context=sys.argv[1]) as executor:
        print(sum(executor.map(bodies.double, range(200), chunksize=1)))
    executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1])
    assert executor.submit(bodies.double, 1).result(20) == 2
    executor.kill_workers()
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    error = executor.submit(bodies.double, 1).exception(20)
    for fd in taken:
        os.close(fd)
    print(type(error).__name__, error)
    executor.shutdown()
    """
    done = watch.run(tmp_path, source, method, env=watch.with_tests_on_path())
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == str(sum(2 * n for n in range(200)))
    assert second == (
        "InitializerFailed no worker can be started: [Errno 24] Too many open files; "
        "raise the limit of open files (ulimit -n), or use fewer workers"
    )


def test_a_program_that_reaps_all_its_children(method: str, tmp_path: Path) -> None:
    source = """
    import os, signal, sys, unirun
    from process import bodies
    from process.line import Line

    def reap(*_):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    signal.signal(signal.SIGCHLD, reap)
    os.mkfifo("line")
    line = Line("line")
    line.keep_open()
    with unirun.Executor(2, backend="process", mp_context=sys.argv[1]) as executor:
        for round in range(5):
            assert executor.submit(bodies.double, 1).result(20) == 2
            crash = executor.submit(bodies.by_sigkill).exception(20)
            assert type(crash) is unirun.WorkerCrashed, crash
            future = executor.submit(bodies.sleep, Line(os.path.abspath("line")))
            line.wait()
            assert future.kill()
    print("fine")
    """
    done = watch.run(tmp_path, source, method, env=watch.with_tests_on_path())
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.scenario("signals: start-up", "a storm of Ctrl-C while the first workers come up")
def test_a_ctrl_c_does_not_reach_what_is_being_started(method: str, tmp_path: Path) -> None:
    source = """
    import os, signal, sys, unirun
    from process import bodies
    signal.signal(signal.SIGINT, lambda *_: None)
    with unirun.Executor(2, backend="process", mp_context=sys.argv[1]) as executor:
        futures = [executor.submit(bodies.double, n) for n in range(4)]
        while not all(future.done() for future in futures):
            os.killpg(0, signal.SIGINT)
        print([future.result(0) for future in futures])
    """
    done = watch.run(
        tmp_path, source, method, env=watch.with_tests_on_path(), start_new_session=True
    )
    assert (done.stdout, done.stderr) == ("[0, 2, 4, 6]\n", "")


# -- when workers are replaced ------------------------------------------------------------------


@pytest.mark.scenario("max_tasks_per_child with backlog", "all are done, no worker does more")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_has_served_its_time_is_replaced(
    pool: Pool, method: str, workers: int
) -> None:
    executor = pool(workers, method, max_tasks_per_child=3)
    futures = [executor.submit(bodies.pid) for _ in range(20)]
    served = Counter(future.result(PATIENCE) for future in futures)
    assert max(served.values()) <= 3
    assert len(served) >= 7
    assert sum(served.values()) == 20
    assert executor.stats()["process"].crashed == 0


def test_idle_workers_retire_and_come_back(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(2, idle_timeout=0.2), line(), line()
    futures = [executor.submit(bodies.wait_for, go, ready) for _ in range(2)]
    pids = [int(ready.wait()) for _ in futures]
    for _ in futures:
        go.send()
    watch.until_gone(*pids)
    watch.until(lambda: not executor.stats()["process"].workers, "none is left")
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


def test_a_busy_worker_does_not_retire(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(2, idle_timeout=0.1), line(), line()
    future = executor.submit(bodies.wait_for, go, ready)
    pid = int(ready.wait())
    other = executor.submit(bodies.pid).result(PATIENCE)
    watch.until_gone(other)
    go.send()
    assert future.result(PATIENCE) == pid
