"""A program that uses signals and child processes in its own way, named by the first argument.

The second one is how workers start.  It says "fine" if all works: its own things, and calls that
end, fail, crash and are killed.
"""

import asyncio
import faulthandler
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from process import bodies
from process.line import Line
from process.watch import until

import unirun

WAYS: dict[str, Callable[[Any], None]] = {}
PATIENCE = 20.0


def way(function: Callable[[Any], None]) -> Callable[[Any], None]:
    WAYS[function.__name__] = function
    return function


def exercise(executor: Any) -> None:
    """What has to work, whatever the program does about signals."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "line"
        os.mkfifo(path)
        line = Line(str(path))
        line.keep_open()
        assert executor.submit(bodies.double, 1).result(PATIENCE) == 2
        crash = executor.submit(bodies.by_sigkill).exception(PATIENCE)
        assert type(crash) is unirun.WorkerCrashed, crash
        future = executor.submit(bodies.sleep, line)
        line.wait()
        assert future.kill(0)
        future = executor.options(timeout=0.05).submit(time.sleep, 1000)
        assert type(future.exception(PATIENCE)) is unirun.TaskTimeout
        assert executor.submit(bodies.use_subprocess).result(PATIENCE)
        assert list(executor.map(bodies.double, range(50))) == [2 * n for n in range(50)]
        line.close()


@way
def child_handler(executor: Any) -> None:
    """It hears of its own children, and reaps them."""
    seen: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    child = subprocess.Popen(["true"])
    assert child.wait(PATIENCE) == 0
    exercise(executor)
    assert seen


@way
def reaper(executor: Any) -> None:
    """As the first process of a container: it reaps whoever is there, ours too."""

    def reap(*_: object) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return

    signal.signal(signal.SIGCHLD, reap)
    exercise(executor)


@way
def ignores_children(executor: Any) -> None:
    """The system reaps them, unseen."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    exercise(executor)


@way
def alarms(executor: Any) -> None:
    rung: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    exercise(executor)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert rung


@way
def raising_alarm(executor: Any) -> None:
    """The old way to limit a wait: it ends the wait, not the call, and with its own exception."""

    def ring(*_: object) -> None:
        raise TimeoutError("mine")

    def waits(ask: Callable[[], object]) -> None:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            ask()
        except TimeoutError as exc:
            mine = exc.args == ("mine",)
        else:
            mine = False
        assert mine, "nobody was interrupted"

    signal.signal(signal.SIGALRM, ring)
    future = executor.submit(time.sleep, 1000)
    until(future.running, "it runs")
    waits(future.result)
    waits(lambda: unirun.wait([future]))
    waits(lambda: list(executor.map(time.sleep, [1000])))
    assert future.running()
    assert future.kill(0)
    executor.kill_workers()
    exercise(executor)


@way
def stacks_on_request(executor: Any) -> None:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
        future = executor.submit(time.sleep, 0.2)
        os.kill(os.getpid(), signal.SIGUSR1)
        future.result(PATIENCE)
        exercise(executor)
        faulthandler.unregister(signal.SIGUSR1)
        file.seek(0)
        assert "most recent call first" in file.read()


@way
def wakeup_fd(executor: Any) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    exercise(executor)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert select.select([reader], [], [], PATIENCE)[0]
    assert os.read(reader, 100) == bytes([signal.SIGUSR2])
    assert signal.set_wakeup_fd(-1) == writer


@way
def watched_children(executor: Any) -> None:
    """Children of asyncio beside ours, in its main thread and in another one."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "print(7)", stdout=subprocess.PIPE
            )
            future = executor.submit(bodies.double, 4)
            assert (await child.communicate())[0] == b"7\n"
            assert child.returncode == 0
            assert await future == 8
        await loop.run_in_executor(None, exercise, executor)

    asyncio.run(main())
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, main()).result(2 * PATIENCE)


@way
def blocked(executor: Any) -> None:
    """What the program has blocked is not blocked for its workers."""
    numbers = {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM, signal.SIGPIPE}
    numbers |= {signal.SIGIO, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    with make() as later:
        assert later.submit(blocked_signals).result(PATIENCE) == []
        exercise(later)
    exercise(executor)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == numbers


@way
def ignored(executor: Any) -> None:
    """What the program ignores does not keep a worker from being told to end."""
    for number in (signal.SIGTERM, signal.SIGIO, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    with make() as later:
        assert later.submit(ignored_signals).result(PATIENCE) == []
        exercise(later)


@way
def restarts(executor: Any) -> None:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    exercise(executor)
    signal.setitimer(signal.ITIMER_REAL, 0)


@way
def submits_in_handlers(executor: Any) -> None:
    """A handler may submit, amid a submit or a wait."""
    futures: list[Any] = []
    signal.signal(signal.SIGUSR1, lambda *_: futures.append(executor.submit(lambda: 42)))
    done = threading.Event()

    def send() -> None:
        while not done.is_set() and len(futures) < 200:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(0.0005)

    thread = threading.Thread(target=send)
    thread.start()
    for number in range(300):
        assert executor.submit(lambda: 7).result(PATIENCE) == 7  # the first imports cloudpickle
        assert executor.submit(bodies.double, number).result(PATIENCE) == 2 * number
    done.set()
    thread.join()
    assert futures
    assert {future.result(PATIENCE) for future in futures} == {42}


def blocked_signals() -> list[int]:
    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def ignored_signals() -> list[str]:
    watched = (signal.SIGTERM, signal.SIGIO, signal.SIGCHLD)
    return [number.name for number in watched if signal.getsignal(number) == signal.SIG_IGN]


def make() -> unirun.Executor:
    return unirun.Executor(2, backend="process", mp_context=sys.argv[2])


def main(what: str) -> None:
    with make() as executor:
        WAYS[what](executor)
    print("fine")


if __name__ == "__main__":
    main(sys.argv[1])
