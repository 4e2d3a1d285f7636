"""A program to be interrupted by Ctrl-C, at the place that its first argument names.

Second argument: backend, or "default" for the default executor.  It prints "there" when it is, with
the pids of workers that run something; and "caught N" if N KeyboardInterrupts came to its caller.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import unirun

PLACES: dict[str, Callable[..., None]] = {}


def place(function: Callable[..., None]) -> Callable[..., None]:
    PLACES[function.__name__] = function
    return function


def hang() -> None:
    os.write(1, f"there {os.getpid()}\n".encode())
    time.sleep(1000)


def hang_twice() -> None:
    """A call that waits for a call of the same executor."""
    unirun.run(hang)


def hang_through_cleaning_up() -> None:
    """One that takes its time when it is told to end."""
    signal.signal(signal.SIGTERM, be_told)
    hang()


def be_told(number: int, frame: Any) -> None:
    os.write(1, b"told\n")
    time.sleep(1000)


def hang_for(number: int) -> None:
    hang()


def endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def double(number: int) -> int:
    return 2 * number


def say_there() -> None:
    os.write(1, f"there {os.getpid()}\n".encode())


@place
def result(submit: Any, executor: Any) -> None:
    submit(hang).result()


@place
def exception(submit: Any, executor: Any) -> None:
    submit(hang).exception(1000)


@place
def run(submit: Any, executor: Any) -> None:
    executor.submit(double, 1).result()
    unirun.run(hang)


@place
def map_next(submit: Any, executor: Any) -> None:
    for _ in executor.map(hang_for, endless()):
        raise AssertionError


@place
def map_running(submit: Any, executor: Any) -> None:
    for number, value in enumerate(executor.map(double, endless())):
        assert value == 2 * number
        if number == 100:
            say_there()


@place
def map_unordered(submit: Any, executor: Any) -> None:
    for _ in executor.map(hang_for, endless(), ordered=False):
        raise AssertionError


@place
def wait(submit: Any, executor: Any) -> None:
    unirun.wait([submit(hang), submit(double, 1)])


@place
def completed(submit: Any, executor: Any) -> None:
    for future in as_completed([submit(hang), submit(double, 1)]):
        assert future.result() == 2


@place
def shutdown(submit: Any, executor: Any) -> None:
    submit(hang)
    executor.shutdown()


@place
def end_of_with(submit: Any, executor: Any) -> None:
    submit(hang)


@place
def storm(submit: Any, executor: Any) -> None:
    for number in range(10**9):
        submit(double, number)
        if number == 1000:
            say_there()


@place
def queue_get(submit: Any, executor: Any) -> None:
    queue = executor.Queue()
    submit(hang)
    queue.get()


@place
def lock_acquire(submit: Any, executor: Any) -> None:
    lock = executor.Lock()
    submit(take_and_hang, lock)
    executor.Event().wait()


@place
def condition_wait(submit: Any, executor: Any) -> None:
    condition = executor.Condition()
    submit(hang)
    with condition:
        condition.wait()


@place
def barrier_wait(submit: Any, executor: Any) -> None:
    barrier = executor.Barrier(2)
    submit(hang)
    barrier.wait()


@place
def awaited(submit: Any, executor: Any) -> None:
    async def main() -> None:
        await submit(hang)

    asyncio.run(main())


@place
def gathered(submit: Any, executor: Any) -> None:
    async def main() -> None:
        await asyncio.gather(*[asyncio.wrap_future(submit(hang)) for _ in range(2)])

    asyncio.run(main())


@place
def nested(submit: Any, executor: Any) -> None:
    submit(hang_twice).result()


@place
def in_thread(submit: Any, executor: Any) -> None:
    """Another thread of the program waits, and the main thread for that."""
    other = threading.Thread(target=lambda: unirun.wait([submit(hang)]), daemon=True)
    other.start()
    other.join()


@place
def stubborn(submit: Any, executor: Any) -> None:
    """The first Ctrl-C waits for the grace of the call; it takes a second one."""
    submit(hang_through_cleaning_up).result()


@place
def stubborn_at_end(submit: Any, executor: Any) -> None:
    submit(hang_through_cleaning_up)


@place
def stubborn_in_shutdown(submit: Any, executor: Any) -> None:
    submit(hang_through_cleaning_up)
    executor.shutdown()


@place
def starting(submit: Any, executor: Any) -> None:
    """Hit while the first workers come up."""
    for number in range(10**9):
        assert submit(double, number).result() == 2 * number


@place
def starting_to_share(submit: Any, executor: Any) -> None:
    """Hit while shared objects come to life."""
    for number in range(10**9):
        queue = executor.Queue()
        submit(queue.put, number)
        assert queue.get() == number


@place
def asleep(submit: Any, executor: Any) -> None:
    """Nobody waits for the calls."""
    submit(hang)
    time.sleep(1000)


def take_and_hang(lock: Any) -> None:
    with lock:
        hang()


def make(backend: str, *, patient: bool) -> AbstractContextManager[Any]:
    if backend == "default":
        os.environ["UNIRUN_BACKEND"] = "process"
        return nullcontext(unirun.current_executor())
    return unirun.Executor(2, backend=backend, grace=100 if patient else None)


def main(where: str, backend: str) -> None:
    caught = 0
    try:
        if where.startswith("starting"):
            os.write(1, b"there\n")
        with make(backend, patient=where.startswith("stubborn")) as executor:
            PLACES[where](executor.submit, executor)
    except KeyboardInterrupt:
        caught += 1
        raise
    finally:
        os.write(1, f"caught {caught}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
