"""A program that forks while its executors are busy.

    python tests/apps/forks.py CASE BACKEND METHOD SECONDS

It prints what its children found, and ends with status 0 if all was well.
"""

import asyncio
import collections
import concurrent.futures as standard
import faulthandler
import gc
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import unirun

PATIENCE = 20.0
CASES: dict[str, Callable[[str, str | None, float], bool]] = {}
log = logging.getLogger("forks")


def case(function: Callable[[str, str | None, float], bool]) -> Callable[..., bool]:
    CASES[function.__name__] = function
    return function


class Unbuffered(logging.Handler):
    """With logging's own locks only: that of a buffered file, Python leaves held in a child."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def make(backend: str, method: str | None) -> unirun.Executor:
    return unirun.Executor(2, backend=backend, mp_context=method)


def double(number: int) -> int:
    return 2 * number


def in_child(body: Callable[[], object]) -> int | str:
    """Fork, and run `body` there; how the child has ended."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)  # says where it hangs
            body()
            status = 0
        except SystemExit:
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def threads(*bodies: Callable[[], object]) -> Iterator[None]:
    """Each called again and again, until the block ends."""
    stop = threading.Event()

    def repeat(body: Callable[[], object]) -> None:
        while not stop.is_set():
            body()

    running = [threading.Thread(target=repeat, args=(body,)) for body in bodies]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in running), "a thread of the parent is stuck"


# -- what a child does, that forked amid thousands of submits -------------------------------------


def refused(executor: unirun.Executor) -> None:
    try:
        executor.submit(double, 1)
    except RuntimeError:
        return
    raise AssertionError("the parent's executor takes calls in a child")


def leave_with(executor: unirun.Executor) -> None:
    try:
        with executor:
            raise LookupError
    except LookupError:
        return


def shut_down(executor: unirun.Executor) -> None:
    executor.shutdown()
    executor.shutdown(kill=True)


@case
def amid_submits(backend: str, method: str | None, seconds: float) -> bool:
    """Threads of ours, the program's and of logging hold locks at each fork."""
    executor = make(backend, method)

    def submit() -> None:
        futures = [executor.submit(double, number) for number in range(50)]
        assert [future.result(PATIENCE) for future in futures] == [2 * n for n in range(50)]
        log.warning("done")

    def make_others() -> None:
        with make(backend, method) as other:
            other.submit(double, 1).result(PATIENCE)

    def use_own() -> None:
        with make(backend, method) as own:
            assert own.submit(double, 4).result(PATIENCE) == 8

    things: list[Callable[[], object]] = [
        lambda: None,
        sys.exit,
        gc.collect,
        use_own,
        lambda: refused(executor),
        lambda: leave_with(executor),
        lambda: shut_down(executor),
        lambda: log.warning("in the child"),
        lambda: executor.stats(),
    ]
    ends: collections.Counter[int | str] = collections.Counter()
    end = time.monotonic() + seconds
    with threads(submit, submit, make_others):
        while time.monotonic() < end or sum(ends.values()) < len(things):
            ends[in_child(things[sum(ends.values()) % len(things)])] += 1
    assert executor.submit(double, 21).result(PATIENCE) == 42
    executor.shutdown()
    print("children by status:", dict(ends))
    return set(ends) == {0}


SLOW = """
import __main__
__main__.BEGUN.set()
assert __main__.GO.wait(__main__.PATIENCE)
whole = True
"""
BEGUN, GO = threading.Event(), threading.Event()


@contextmanager
def importing(name: str) -> Iterator[None]:
    """A thread is in the middle of that import, until the block ends or GO is set."""
    Path(f"{name}.py").write_text(SLOW)
    sys.path.insert(0, str(Path.cwd()))
    BEGUN.clear()
    GO.clear()
    thread = threading.Thread(target=__import__, args=(name,))
    thread.start()
    assert BEGUN.wait(PATIENCE)
    try:
        yield
    finally:
        GO.set()
        thread.join()


def timed_fork(body: Callable[[], object]) -> float:
    begun = time.monotonic()
    assert in_child(body) == 0
    return time.monotonic() - begun


@case
def amid_imports(backend: str, method: str | None, seconds: float) -> bool:
    """A child waits for no import of a thread that it has not."""
    with make(backend, method) as executor:
        assert executor.submit(double, 1).result(PATIENCE) == 2
        with importing("slow"):
            threading.Timer(seconds, GO.set).start()
            timed_fork(lambda: __import__("slow").whole)
        with importing("endless"):
            first, second = (timed_fork(lambda: None) for _ in range(2))
        print("was waited for once:", first > second)
        return first > second


@case
def amid_a_slow_start(backend: str, method: str | None, seconds: float) -> bool:
    """A thread takes longer to make a pool than a fork waits: the child can make its own."""
    from unirun.backends.process import forks

    begun = threading.Event()

    def hold() -> None:
        with forks.making:
            begun.set()
            assert GO.wait(PATIENCE)

    def use_own() -> None:
        with make(backend, method) as own:
            assert own.submit(double, 4).result(PATIENCE) == 8

    with make(backend, method) as executor:
        assert executor.submit(double, 1).result(PATIENCE) == 2
        thread = threading.Thread(target=hold)
        thread.start()
        assert begun.wait(PATIENCE)
        timed_fork(use_own)
        GO.set()
        thread.join()
        timed_fork(use_own)
        return executor.submit(double, 2).result(PATIENCE) == 4


def descriptors() -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for each in Path("/proc/self/fd").iterdir():
        try:
            found[str(each.readlink())] += 1
        except FileNotFoundError:
            continue  # that of the listing
    return found


@case
def children_that_live(backend: str, method: str | None, seconds: float) -> bool:
    """They have no end of our pipes that means something, so deaths and ends are noticed."""
    executor, children, begun = make(backend, method), [], descriptors()
    end = time.monotonic() + seconds
    reader, writer = os.pipe()

    def make_others() -> None:
        with make(backend, method) as other:
            other.submit(double, 1).result(PATIENCE)

    def submit() -> None:
        try:
            executor.submit(double, 1).result(PATIENCE)
        except unirun.WorkerCrashed:
            return

    with threads(submit, make_others):
        while time.monotonic() < end or len(children) < 3:
            time.sleep(random.random() / 100)
            pid = os.fork()
            if not pid:
                new = descriptors() - begun
                shared = [each for each in new if each.startswith(("pipe:", "socket:"))]
                os.write(writer, f"{len(shared)} ".encode())
                signal.pause()
            children.append(pid)
        for pid in executor.stats()["process"].pids:
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        assert executor.submit(double, 2).result(PATIENCE) == 4
        print(f"noticed within {time.monotonic() - killed:.3f} s")
    stopped = time.monotonic()
    executor.shutdown(timeout=PATIENCE)
    took = time.monotonic() - stopped
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    # The pipe to us, and of each pool the read end of its life-line, into which nobody writes.
    inherited = [int(each) - 1 for each in os.read(reader, 1 << 16).split()]
    print(f"children: {len(children)}, pipes of pools in them: {inherited}, end: {took:.1f} s")
    return max(inherited) <= 3 and took < 4.0  # 5 s is the patience with a worker that stays


@case
def beside_others(backend: str, method: str | None, seconds: float) -> bool:
    """Other pools, processes and event loops: before ours, while it works, and after it."""
    use_everything_else()
    executor = make(backend, method)
    lock = executor.Lock()
    assert executor.submit(double, 4).result(PATIENCE) == 8
    futures = [executor.submit(time.sleep, 0.01) for _ in range(50)]
    use_everything_else()
    assert [future.result(PATIENCE) for future in futures] == [None] * 50
    with lock:
        assert executor.submit(double, 4).result(PATIENCE) == 8
    executor.shutdown()
    use_everything_else()
    return True


def use_everything_else() -> None:
    doubled = [0, 2, 4]
    with standard.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(double, range(3))) == doubled
    for name in ("fork", "spawn"):
        context: Any = multiprocessing.get_context(name)
        process = context.Process(target=double, args=(1,))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == 0
        with context.Pool(1) as old:
            assert old.map(double, range(3)) == doubled
        with standard.ProcessPoolExecutor(1, mp_context=context) as processes:
            assert list(processes.map(double, range(3))) == doubled
    subprocess.run(["true"], check=True, timeout=PATIENCE)
    assert asyncio.run(_in_asyncio()) == doubled


async def _in_asyncio() -> list[int]:
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    return await asyncio.gather(*[asyncio.to_thread(double, number) for number in range(3)])


if __name__ == "__main__":
    which, backend, method, seconds = sys.argv[1:]
    log.addHandler(Unbuffered())
    sys.exit(not CASES[which](backend, method or None, float(seconds)))
