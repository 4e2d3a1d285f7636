"""What tasks do in tests/reliability/test_nesting.py: submit calls, and wait for them."""

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from process.line import PATIENCE, Line

import unirun
from unirun import Executor, Future, _context

# -- one below the other ------------------------------------------------------------------------


def by_result(depth: int) -> int:
    return 1 + unirun.submit(by_result, depth - 1).result() if depth else 0


def by_time_out(depth: int) -> int:
    return 1 + unirun.submit(by_time_out, depth - 1).result(PATIENCE) if depth else 0


def by_exception(depth: int) -> int:
    if not depth:
        return 0
    future = unirun.submit(by_exception, depth - 1)
    assert future.exception() is None
    return 1 + future.result()


def by_wait(depth: int) -> int:
    if not depth:
        return 0
    future = unirun.submit(by_wait, depth - 1)
    unirun.wait([future])
    return 1 + future.result()


def by_as_completed(depth: int) -> int:
    if not depth:
        return 0
    return 1 + next(unirun.as_completed([unirun.submit(by_as_completed, depth - 1)])).result()


def by_map(depth: int) -> int:
    return 1 + max(unirun.map(by_map, [depth - 1, 0])) if depth else 0


def by_unordered_map(depth: int) -> int:
    if not depth:
        return 0
    return 1 + max(unirun.map(by_unordered_map, [depth - 1, 0], ordered=False))


async def by_await(depth: int) -> int:
    return 1 + await unirun.submit(by_await, depth - 1) if depth else 0


async def by_wrapping(depth: int) -> int:
    if not depth:
        return 0
    return 1 + await asyncio.wrap_future(unirun.submit(by_wrapping, depth - 1))


def by_retries(depth: int) -> int:
    if not depth:
        return 0
    return 1 + _current().options(retries=1).submit(by_retries, depth - 1).result()


async def by_result_in_a_loop(depth: int) -> int:
    return 1 + unirun.submit(by_result_in_a_loop, depth - 1).result() if depth else 0


def by_an_argument(executor: Executor, depth: int) -> int:
    return 1 + executor.submit(by_an_argument, executor, depth - 1).result() if depth else 0


def by_an_event(depth: int) -> int:
    """A way of waiting that nobody can see."""
    if not depth:
        return 0
    ended = threading.Event()
    future = unirun.submit(by_an_event, depth - 1)
    future.add_done_callback(lambda _: ended.set())
    ended.wait()
    return 1 + future.result()


def fib(number: int) -> int:
    return sum(unirun.map(fib, (number - 1, number - 2))) if number > 1 else number


def in_threads_of_its_own(count: int) -> int:
    executor = _current()
    with ThreadPoolExecutor(count) as threads:
        ran = threads.map(lambda _: executor.submit(os.getpid).result(), range(count))
        return len(list(ran))


def _current() -> Executor:
    return unirun.current_executor()


# -- of many kinds ------------------------------------------------------------------------------


@unirun.task(kind="io")
def on_a_thread(depth: int) -> list[str]:
    return _where(on_a_process, depth)


@unirun.task(kind="cpu")
def on_a_process(depth: int) -> list[str]:
    return _where(on_a_loop, depth)


@unirun.task
async def on_a_loop(depth: int) -> list[str]:
    here = _backend()
    return [here, *await on_a_thread.submit(depth - 1)] if depth else [here]


def _where(below: Any, depth: int) -> list[str]:
    here = _backend()
    return [here, *below.submit(depth - 1).result()] if depth else [here]


def _backend() -> str:
    task = unirun.current_task()
    assert task is not None
    return task.backend


# -- executors ----------------------------------------------------------------------------------


def is_current(executor: Executor) -> bool:
    return executor is unirun.current_executor()


def is_the_same(one: Executor, other: list[Executor]) -> bool:
    return one is other[0]


def pid_of_another(executor: Executor) -> tuple[int, int]:
    return os.getpid(), executor.submit(os.getpid).result()


def give_back(executor: Executor) -> Executor:
    return executor


def pickle_it(executor: Executor) -> bytes:
    return pickle.dumps(executor)


def make_levels(depth: int) -> list[int]:
    """Each in an executor of its own."""
    if not depth:
        return [os.getpid()]
    with Executor(1, backend="process") as executor:
        return [os.getpid(), *executor.submit(make_levels, depth - 1).result()]


def make_one_too_many() -> int:
    _context.depth = 20
    with Executor(1, backend="process") as executor:
        return executor.submit(os.getpid).result()


_kept: list[Executor] = []


def keep_one_idle() -> int:
    _kept.append(Executor(1, backend="process", idle_timeout=None))
    return _kept[-1].submit(os.getpid).result()


# -- of two executors ---------------------------------------------------------------------------


_prepared: list[str] = []  # in this process
_mine = threading.local()  # .name: what has prepared this thread


def prepare(name: str) -> None:
    """An initializer."""
    _prepared.append(name)
    _mine.name = name


def prepare_once(names: list[str]) -> None:
    if names:
        raise OSError("once is enough")
    names.append("done")


def preparations() -> list[str]:
    return _prepared


def preparation_of_this_thread() -> str:
    return getattr(_mine, "name", "nothing")


def ask(executor: Executor, body: Callable[[], Any], timeout: float | None = None) -> Any:
    return executor.submit(body).result(timeout)


def ask_deep_down(depth: int) -> str:
    if depth:
        return unirun.submit(ask_deep_down, depth - 1).result()
    return preparation_of_this_thread()


def ask_a_thread(executor: Executor) -> str:
    return executor.submit(preparation_of_this_thread).result()


def hold(begun: Line, go: Line) -> None:
    begun.send()
    go.wait()


def across(here: Executor, there: Executor, depth: int) -> list[str]:
    """To and fro; what has prepared each process on the way."""
    below = there.submit(across, there, here, depth - 1).result() if depth else []
    return [*_prepared, *below]


def across_by_an_event(here: Executor, there: Executor, depth: int) -> list[str]:
    if not depth:
        return [*_prepared]
    ended = threading.Event()
    future = there.submit(across_by_an_event, there, here, depth - 1)
    future.add_done_callback(lambda _: ended.set())
    ended.wait()
    return [*_prepared, *future.result()]


# -- calls that end in other ways ---------------------------------------------------------------


@unirun.task(kind="isolated")
def isolated(depth: int) -> list[int]:
    return [os.getpid(), *isolated.submit(depth - 1).result()] if depth else [os.getpid()]


def sleep(line: Line) -> None:
    line.send(os.getpid())
    time.sleep(1000)


def sleep_quietly(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def die() -> None:
    os._exit(3)


def fail(text: str) -> None:
    raise LookupError(text)


def fail_below(text: str) -> None:
    unirun.submit(fail, text).result()


def outcome_of(body: Callable[..., Any], *args: Any) -> tuple[str, str]:
    error = unirun.submit(body, *args).exception()
    return type(error).__name__, str(error)


def crash_below() -> str:
    """The call has a worker of its own, as it must be killable."""
    future = _current().options(timeout=PATIENCE).submit(die)
    return type(future.exception()).__name__


def time_out_below() -> str:
    future = _current().options(timeout=0.1).submit(sleep_quietly, 1000)
    return type(future.exception()).__name__


def wait_no_longer() -> tuple[str, str]:
    """A time-out of a wait, for a call that runs nowhere else."""
    future = unirun.submit(sleep_quietly, 0.5)
    try:
        future.result(0.05)
    except TimeoutError:
        return "in time", future.result()
    return "late", ""


def cancel_below() -> tuple[bool, bool, bool]:
    """What is cancelled while every worker is taken has not begun."""
    future = unirun.submit(sleep_quietly, 1000)
    return future.running(), future.cancel(), future.cancelled()


def kill_below(line: Line) -> tuple[bool, bool, bool, str]:
    future = unirun.submit(sleep, line)
    line.wait()
    running, cancelled = future.running(), future.cancel()
    killed = future.kill(0.0)
    return running, cancelled, killed, type(_end_of(future)).__name__


def _end_of(future: Future[Any]) -> BaseException | None:
    try:
        return future.exception()
    except BaseException as exc:
        return exc


def start_three(runs: Line, told: Line, path: str) -> None:
    """One that runs, since there is another worker, and others that wait; then it hangs."""
    futures = _start(runs, path)
    told.send(os.getpid())
    time.sleep(1000)
    futures.clear()


def start_three_and_die(runs: Line, told: Line, path: str, go: Line) -> None:
    futures = _start(runs, path)
    told.send(os.getpid())
    go.wait()
    os._exit(len(futures))


def _start(runs: Line, path: str) -> list[Future[Any]]:
    """The second may be lent a worker, as the task waits; the third waits in any case."""
    sleeping = [unirun.submit(sleep, runs), unirun.submit(sleep_quietly, 1000)]
    return [*sleeping, unirun.submit(note, path, 0)]


def note(path: str, number: int) -> int:
    with Path(path).open("a") as log:
        log.write(f"{number}\n")
    return number


def leave_behind(path: str) -> None:
    unirun.submit(note, path, 7)


def spread(path: str, start: int, count: int) -> int:
    """Many small ones: some are taken back in the moment in which a worker gets them."""
    futures = [unirun.submit(note, path, start + number) for number in range(count)]
    return sum(future.result() for future in futures)


def begin_and_submit(line: Line, go: Line) -> int:
    line.send()
    go.wait()
    return 1 + unirun.submit(by_result, 3).result()


def wait_in_a_thread_left_behind(line: Line) -> None:
    executor = _current()
    threading.Thread(
        target=lambda: line.send(executor.submit(by_result, 3).result()), daemon=True
    ).start()


def about_below() -> tuple[str, str, int, float]:
    return unirun.submit(about).result()


def about() -> tuple[str, str, int, float]:
    task = unirun.current_task()
    assert task is not None
    left = 0.0 if task.deadline is None else task.deadline - time.monotonic()
    return task.name, task.backend, task.attempt, left


def count_workers(path: str, leaves: int, wait: float) -> None:
    """Notes when a body that waits for nothing begins and ends."""
    futures = [unirun.submit(stay, path, wait) for _ in range(leaves)]
    for future in futures:
        future.result()


def stay(path: str, seconds: float) -> None:
    with Path(path).open("a") as log:
        log.write("+")
    time.sleep(seconds)
    with Path(path).open("a") as log:
        log.write("-")
