"""A program that ends in one of many ways, while its executor has work in one of some states.

    python tests/apps/exits.py BACKEND STATE ENDING

`exits_all.py` runs every combination.  ./log says what was done: "began", "finished" and "quick"
for calls, "refused" and "taken" for what was submitted late, "waiter" with the type of what a
waiting thread was told.
"""

import asyncio
import atexit
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 20.0
MAIN = os.getpid()
kept: list[Any] = []  # until the end of the interpreter
ENDINGS: dict[str, Callable[[Any], None]] = {}
BACKENDS = ("thread", "process", "inline", "coroutine")
STATES = ("idle", "pending", "running", "hung", "stubborn")
OWN = "LookupError: the program's own"


def ending(function: Callable[[Any], None]) -> Callable[[Any], None]:
    ENDINGS[function.__name__] = function
    return function


def note(text: str) -> None:
    with Path("log").open("a") as file:
        file.write(text + "\n")


# -- calls ----------------------------------------------------------------------------------------


def quick(*_: object) -> int:
    note("quick")
    return 7


def slow(*_: object) -> None:
    note("began")
    time.sleep(0.3)
    note("finished")


def hung(*_: object) -> None:
    note("began")
    threading.Event().wait(1000)


def stubborn(*_: object) -> None:
    if os.getpid() != MAIN:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hung()


async def quick_async(*_: object) -> int:
    return quick()


async def slow_async(*_: object) -> None:
    note("began")
    await asyncio.sleep(0.3)
    note("finished")


async def hung_async(*_: object) -> None:
    note("began")
    await asyncio.Event().wait()


async def stubborn_async(*_: object) -> None:
    hung()  # it blocks the loop


def body(backend: str, name: str) -> Any:
    return globals()[f"{name}_async" if backend == "coroutine" else name]


def until_begun() -> None:
    end = time.monotonic() + PATIENCE
    while not (Path("log").exists() and "began" in Path("log").read_text()):
        assert time.monotonic() < end, "no call has begun"
        time.sleep(0.005)


def load(executor: Any, backend: str, state: str) -> Any:
    """Give it something to do; the future of its first call."""
    beside = (executor.Barrier(1),) if backend == "inline" else ()  # runs beside the caller then
    submit = executor.options(name="the long one").submit
    if state == "idle":
        future = executor.submit(body(backend, "quick"))
        future.result(PATIENCE)
        return future
    name = {"pending": "slow", "running": "slow"}.get(state, state)
    future = submit(body(backend, name), *beside)
    if state == "pending":
        kept.extend(executor.submit(body(backend, "quick")) for _ in range(5))
    else:
        until_begun()
    return future


# -- endings --------------------------------------------------------------------------------------


class Program:
    """What an ending has to do with."""

    def __init__(self, backend: str, state: str) -> None:
        import unirun

        self.unirun, self.backend, self.state = unirun, backend, state
        self.executor: Any = self.new()
        self.quick = body(backend, "quick")

    def new(self) -> Any:
        return self.unirun.Executor(1, backend=self.backend)

    def load(self) -> Any:
        return load(self.executor, self.backend, self.state)

    def loaded(self) -> Any:
        kept.append(self.executor)
        return self.load()

    def submit_late(self) -> None:
        """To the executor there is, and to new ones."""
        for executor in (lambda: self.executor, self.new, self.unirun.current_executor):
            try:
                kept.append(executor().submit(self.quick))
                note("taken")
            except RuntimeError as exc:
                note(f"refused: {type(exc).__name__}: {exc}")


@ending
def end(program: Program) -> None:
    program.loaded()


@ending
def error(program: Program) -> None:
    program.loaded()
    raise LookupError("the program's own")


@ending
def error_in_with(program: Program) -> None:
    with program.executor:
        program.load()
        raise LookupError("the program's own")


@ending
def exit_3(program: Program) -> None:
    program.loaded()
    sys.exit(3)


@ending
def exit_3_in_with(program: Program) -> None:
    with program.executor:
        program.load()
        sys.exit(3)


@ending
def exit_in_callback(program: Program) -> None:
    future = program.executor.submit(program.quick)
    kept.append(program.executor)

    def leave(_: object) -> None:
        note("callback")
        sys.exit(5)

    future.add_done_callback(leave)
    program.load()


@ending
def os_exit_4(program: Program) -> None:
    program.loaded()
    os._exit(4)


@ending
def ctrl_c(program: Program) -> None:
    program.loaded()
    signal.raise_signal(signal.SIGINT)


@ending
def sigterm(program: Program) -> None:
    program.loaded()
    os.kill(os.getpid(), signal.SIGTERM)


@ending
def sigkill(program: Program) -> None:
    program.loaded()
    os.kill(os.getpid(), signal.SIGKILL)


@ending
def dropped(program: Program) -> None:
    program.load()
    program.executor = None
    gc.collect()


@ending
def shutdown_without_waiting(program: Program) -> None:
    program.load()
    program.executor.shutdown(wait=False)


@ending
def shutdown_that_kills(program: Program) -> None:
    program.load()
    program.executor.shutdown(kill=True)


@ending
def daemons_submit(program: Program) -> None:
    program.loaded()
    executor, begun = program.executor, threading.Event()

    def submit() -> None:
        while True:
            try:
                executor.submit(program.quick)
            except RuntimeError:
                return
            begun.set()
            time.sleep(0.001)

    for _ in range(3):
        threading.Thread(target=submit, daemon=True).start()
    begun.wait(PATIENCE)


@ending
def thread_waits(program: Program) -> None:
    """One that the interpreter waits for, until a call ends."""
    future = program.loaded()

    def wait() -> None:
        try:
            future.result()
            note("waiter: done")
        except BaseException as exc:
            note(f"waiter: {type(exc).__name__}")

    threading.Thread(target=wait).start()


@ending
def thread_fails(program: Program) -> None:
    program.loaded()

    def fail() -> None:
        raise LookupError("the program's own")

    threading.Thread(target=fail).start()


@ending
def callback_hangs(program: Program) -> None:
    program.loaded()
    called = threading.Event()

    def hang(_: object) -> None:
        called.set()
        threading.Event().wait(1000)

    if program.backend != "inline" and program.state in ("idle", "pending", "running"):
        program.executor.submit(program.quick).add_done_callback(hang)
        called.wait(PATIENCE)


@ending
def at_exit(program: Program) -> None:
    program.loaded()
    atexit.register(program.submit_late)


@ending
def at_exit_of_threading(program: Program) -> None:
    """Before ours: what is taken there is finished."""
    program.loaded()
    later: Any = threading
    later._register_atexit(lambda: kept.append(program.executor.submit(program.quick)))


@ending
def finalizer(program: Program) -> None:
    program.loaded()

    class Submits:
        def __del__(self, late: Any = program.submit_late) -> None:
            late()

    atexit.register(lambda each: None, Submits())


@ending
def handler(program: Program) -> None:
    program.loaded()
    signal.signal(signal.SIGUSR1, lambda *_: kept.append(program.executor.submit(program.quick)))
    signal.raise_signal(signal.SIGUSR1)


@ending
def hook(program: Program) -> None:
    program.loaded()

    def report(*_: object) -> None:
        kept.append(program.executor.submit(program.quick))
        sys.__stderr__.write(OWN + "\n")  # type: ignore[union-attr]

    sys.excepthook = report
    raise LookupError("the program's own")


@ending
def many(program: Program) -> None:
    """All of them are waited for at the same time."""
    program.loaded()
    for _ in range(3):
        program.executor = program.new()
        program.loaded()


@ending
def retried(program: Program) -> None:
    """A call that waits for its next attempt, and a thread that waits for the call."""
    if program.backend == "coroutine":
        return program.loaded()
    again = program.executor.options(retries=program.unirun.Retry(3, backoff=900, max_backoff=900))
    future = again.submit(divmod, 1, 0)
    thread = threading.Thread(target=future.exception)
    thread.run = lambda: note(f"waiter: {_failure(future)}")  # type: ignore[method-assign]
    thread.start()
    return program.loaded()


@ending
def limited(program: Program) -> None:
    """A call in line behind the first, and a thread that waits for it."""
    if program.backend == "inline":
        return program.loaded()
    view = program.executor.options(limit=1)
    first = view.submit(
        body(program.backend, {"hung": "hung", "stubborn": "stubborn"}.get(program.state, "slow"))
    )
    second = view.submit(program.quick)
    kept.extend([program.executor, first])
    threading.Thread(target=lambda: note(f"waiter: {_failure(second)}")).start()
    return None


def _failure(future: Any) -> str:
    try:
        return repr(future.result())
    except BaseException as exc:
        return type(exc).__name__


@ending
def stderr_closed(program: Program) -> None:
    program.loaded()
    sys.stderr.close()
    sys.exit(3)


@ending
def stderr_broken(program: Program) -> None:
    program.loaded()
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    sys.exit(3)


@ending
def child(program: Program) -> None:
    """A child of multiprocessing ends like a program: its work is finished."""
    program.loaded()
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=_work_in_child, args=(program,))
    process.start()
    process.join(PATIENCE)
    note(f"child: {process.exitcode}")


def _work_in_child(program: Program) -> None:
    program.executor = program.new()
    kept.append(program.executor)
    program.executor.submit(program.quick)


if __name__ == "__main__":
    wanted_backend, wanted_state, wanted_ending = sys.argv[1:]
    ENDINGS[wanted_ending](Program(wanted_backend, wanted_state))
