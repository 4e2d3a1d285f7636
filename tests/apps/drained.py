"""A program that SIGTERM drains, while its main thread is where the first argument says.

Then: backend, seconds to drain, and the path of a line through which its calls are let go.  It
prints "begun" for each call that runs, "draining" once SIGTERM has come, and how things end.
"""

import asyncio
import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from process.line import Line

import unirun
from unirun import _deferral, _drain

PLACES: dict[str, Callable[..., None]] = {}
PATIENCE = 20.0


def place(function: Callable[..., None]) -> Callable[..., None]:
    PLACES[function.__name__] = function
    return function


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def work(go: Line) -> str:
    say("begun")
    return go.wait(PATIENCE)


def clean_up(go: Line) -> str:
    signal.signal(signal.SIGTERM, lambda *_: say("cleaned up") or sys.exit())
    return work(go)


@place
def result(executor: Any, go: Line) -> None:
    say(f"result {executor.submit(work, go).result()}")
    time.sleep(PATIENCE)


@place
def shutdown(executor: Any, go: Line) -> None:
    future = executor.submit(work, go)
    executor.shutdown()
    say(f"result {future.result()}")
    time.sleep(PATIENCE)


@place
def asleep(executor: Any, go: Line) -> None:
    executor.submit(work, go).add_done_callback(lambda future: say(f"result {future.result()}"))
    time.sleep(PATIENCE)


@place
def importing(executor: Any, go: Line) -> None:
    """SIGTERM comes while the main thread puts handlers off, and is sent once more after that."""
    future = executor.submit(work, go)
    _deferral.undisturbed(until_the_signal_is_there)
    say(f"result {future.result()}")
    time.sleep(PATIENCE)


def until_the_signal_is_there() -> None:
    while not (_drain._watch._news and _drain._watch._news.heard):
        time.sleep(0.005)


@place
def deaf(executor: Any, go: Line) -> None:
    """In C code that goes on waiting, whatever signals there are: for a lock that it holds."""
    executor.submit(work, go).add_done_callback(lambda future: say(f"result {future.result()}"))
    lock = ctypes.create_string_buffer(64)
    library = ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)


@place
def awaited(executor: Any, go: Line) -> None:
    async def main() -> None:
        say(f"result {await executor.submit(work, go)}")
        await asyncio.sleep(PATIENCE)

    asyncio.run(main())


@place
def mapped(executor: Any, go: Line) -> None:
    """All results that there will be are handed out before the end."""
    results = executor.map(work, [go] * 4, chunksize=1)
    say("mapping")
    for number, value in enumerate(results):
        say(f"result {value} {number}")
    say("all")


@place
def mapped_by_nobody(executor: Any, go: Line) -> None:
    unread = executor.map(work, [go] * 4, chunksize=1)
    say("mapping")
    time.sleep(PATIENCE)
    del unread


@place
def waited_for(executor: Any, go: Line) -> None:
    """The main thread is left in peace until it ends by itself."""
    say(f"result {executor.submit(work, go).result()}")
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        continue
    say("all")


@place
def cleaning(executor: Any, go: Line) -> None:
    executor.submit(clean_up, go)
    executor.submit(clean_up, go)
    executor.submit(clean_up, go)  # waits
    time.sleep(PATIENCE)


@place
def stubborn(executor: Any, go: Line) -> None:
    """The main thread does not want to end."""
    executor.submit(work, go)
    while True:
        try:
            time.sleep(PATIENCE)
        except SystemExit:
            say("no")


@place
def handled(executor: Any, go: Line) -> None:
    """The program had a handler before."""
    executor.submit(work, go)
    try:
        time.sleep(PATIENCE)
    except KeyError:
        say("its own handler")
        sys.exit(7)


@place
def exiting(executor: Any, go: Line) -> None:
    """The interpreter waits for the calls already."""
    executor.submit(work, go)
    threading.main_thread()


@place
def several(executor: Any, go: Line) -> None:
    """The default executor, and one more."""
    unirun.submit(work, go).add_done_callback(lambda future: say(f"default {future.result()}"))
    executor.submit(work, go).add_done_callback(lambda future: say(f"result {future.result()}"))
    time.sleep(PATIENCE)


def report(drain: Any, executor: Any) -> None:
    while not drain.begun:
        time.sleep(0.005)
    try:
        executor.submit(work, None)
    except unirun.ExecutorShutdown as exc:
        say(f"draining: {exc}")


def main(where: str, backend: str, timeout: str, path: str) -> None:
    if where == "handled":
        signal.signal(signal.SIGTERM, own_handler)
    executor = unirun.Executor(2, backend=backend, grace=1)
    if where == "several":
        drain = unirun.drain_on_sigterm(float(timeout))
    else:
        drain = executor.drain_on_sigterm(float(timeout), wait_for_main=where == "waited_for")
    atexit.register(say, "at exit")
    threading.Thread(target=report, args=(drain, executor), daemon=True).start()
    try:
        PLACES[where](executor, Line(path))
    finally:
        say("finally")


def own_handler(number: int, frame: Any) -> None:
    raise KeyError(number)


if __name__ == "__main__":
    main(*sys.argv[1:])
