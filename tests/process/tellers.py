"""What calls tell, print, log and warn of, for the tests of what reaches the program."""

import atexit
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import unirun
from unirun import _context

put = print  # which is what these are about


def tell(*values: Any) -> tuple[Any, ...]:
    for value in values:
        assert _context.tell is not None
        _context.tell("test", 0, value)
    return values


def tell_and_return(value: Any) -> Any:
    return tell(value)[0]


def tell_and_die(value: Any) -> None:
    tell(value)
    os._exit(3)


def tell_and_wait(value: Any, path: str) -> None:
    tell(value)
    with Path(path).open("wb", buffering=0) as pipe:
        pipe.write(b"x")
    signal.pause()


def tell_much(count: int, size: int) -> int:
    for number in range(count):
        tell((number, "x" * size))
    return count


def tell_from_threads(threads: int, count: int) -> None:
    def work(number: int) -> None:
        for each in range(count):
            tell((number, each))

    made = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in made:
        thread.start()
    for thread in made:
        thread.join()


class Alarm(Exception):
    """What the handler of a signal raises."""


def tell_while_alarms_ring(count: int, size: int) -> int:
    """Handlers tell something and raise, in the middle of whatever is told."""
    rung, may_raise = 0, False

    def ring(number: int, frame: object) -> None:
        nonlocal rung
        rung += 1
        tell("alarm")
        if may_raise:
            raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    for _ in range(count):
        try:
            may_raise = True
            signal.setitimer(signal.ITIMER_REAL, 0.0002)
            tell("x" * size, "x" * size)
            may_raise = False
        except Alarm:
            may_raise = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    return rung


def tell_in_child() -> bool:
    pid = os.fork()
    if not pid:
        os._exit(0 if _context.tell is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def tell_at_exit(value: Any) -> None:
    atexit.register(tell, value)


def nest(fn: Any, *args: Any) -> Any:
    with unirun.Executor(1, backend="process") as executor:
        return executor.submit(fn, *args).result()


def reports_of_inner(value: Any) -> list[Any]:
    """What a task that has subscribed hears of its own executor."""
    from unirun import _news

    heard: list[Any] = []
    _news.subscribe("test", lambda origin, value: heard.append(value))
    nest(tell_and_return, value)
    return heard


# -- logs -----------------------------------------------------------------------------------------


def log(name: str, level: int, message: Any, *args: Any, **options: Any) -> None:
    logging.getLogger(name).log(level, message, *args, **options)


def log_many(name: str, count: int) -> None:
    for number in range(count):
        logging.getLogger(name).warning("%d", number)


def log_an_exception(name: str) -> None:
    try:
        raise KeyError("spam")
    except KeyError:
        logging.getLogger(name).exception("it failed", stack_info=True)


class Closed:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("closed")

    def __str__(self) -> str:
        return "closed for today"

    __repr__ = __str__


def log_what_cannot_be_pickled(name: str) -> None:
    logging.getLogger(name).warning("it is %s", Closed(), extra={"spam": Closed(), "egg": [1]})


def log_in_a_library(name: str) -> None:
    logger = logging.getLogger(name)
    logger.addHandler(logging.NullHandler())
    logger.warning("from a library")


def log_to_own_handler(name: str, path: str) -> None:
    handler = logging.FileHandler(path)
    logging.getLogger(name).addHandler(handler)
    try:
        logging.getLogger(name).warning("mine")
    finally:
        logging.getLogger(name).removeHandler(handler)
        handler.close()


def log_by_own_queue(name: str, queue: Any) -> None:
    from logging.handlers import QueueHandler

    handler = QueueHandler(queue)
    logging.getLogger().addHandler(handler)
    try:
        logging.getLogger(name).warning("by my own queue")
    finally:
        logging.getLogger().removeHandler(handler)


def level_of(name: str) -> tuple[int, bool]:
    logger = logging.getLogger(name)
    return logger.getEffectiveLevel(), logger.isEnabledFor(logging.CRITICAL)


def set_level(name: str, level: int) -> None:
    logging.getLogger(name).setLevel(level)


def handlers_here() -> int:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return sum(len(getattr(logger, "handlers", ())) for logger in loggers)


def has_imported(name: str) -> bool:
    return name in sys.modules


# -- warnings -------------------------------------------------------------------------------------


class OwnWarning(UserWarning):
    """Of this test."""


def warn(text: str, category: type[Warning] = UserWarning) -> str:
    warnings.warn(text, category, stacklevel=1)
    return text


def warn_and_record(text: str) -> int:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warnings.warn(text, stacklevel=1)
    return len(found)


# -- output ---------------------------------------------------------------------------------------


def say(text: str, end: str = "\n") -> str:
    put(text, end=end)
    return text


def say_on_both(first: str, second: str) -> None:
    put(first)
    put(second, file=sys.stderr)


def say_in_parts(*parts: str) -> None:
    for part in parts:
        put(part, end="", flush=True)


def say_bytes(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say_lines(word: str, count: int) -> None:
    for number in range(count):
        put(word, end=" ")
        put(number)


def say_without_python(text: str) -> None:
    ctypes.CDLL(None).puts(text.encode())
    ctypes.CDLL(None).fflush(None)
    subprocess.run([sys.executable, "-S", "-c", f"print({text!r})"], check=True)


def say_in_a_thread(text: str) -> None:
    thread = threading.Thread(target=print, args=(text,))
    thread.start()
    thread.join()


def say_in_a_child(text: str) -> None:
    pid = os.fork()
    if not pid:
        put(text, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)


def say_and_die(text: str) -> None:
    put(text)
    put(text, file=sys.stderr)
    os.kill(os.getpid(), signal.SIGKILL)


def say_and_wait(text: str, path: str) -> None:
    put(text)
    with Path(path).open("wb", buffering=0) as pipe:
        pipe.write(b"x")
    signal.pause()


async def say_later(text: str) -> str:
    import asyncio

    await asyncio.sleep(0)
    put(text)
    return text


def fail_once(text: str, path: str) -> str:
    put(text)
    if not Path(path).exists():
        Path(path).touch()
        raise OSError("the first time")
    return text
