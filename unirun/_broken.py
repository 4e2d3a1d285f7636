"""The errors that are also the standard library's `BrokenProcessPool`; see `_errors`.

Apart, because that class comes with all of `multiprocessing`: 20 ms to import, which a program
that meets none of these errors never pays. `_errors` hands them out at first use.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool

from unirun._errors import SerializationError, UnirunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "DeserializationError",
    "InitializerFailed",
    "ResultLost",
    "WorkerCrashed",
    "signal_name",
]


class DeserializationError(SerializationError, BrokenProcessPool):
    """Something that was pickled cannot be unpickled where it arrived.

    A `BrokenProcessPool`, since that is what the standard library raises here, for every call at
    once; unirun raises it for the one call it concerns and goes on working.
    """


class WorkerCrashed(UnirunError, BrokenProcessPool):
    """The worker that ran this call died by itself; no other call is affected.

    Attributes: `pid`, `exitcode` (negative: the signal, as in `subprocess`), `signal_name`
    (None unless a signal ended it), `task` (name of the function), `attempt` (from 1), `oom`
    (whether the system killed it for want of memory), `quarantined` (whether it would have been
    run again, had it not crashed so often), and what the worker left behind: `stderr`
    (the last that the call wrote there) and `stack` (where each thread was, as `faulthandler`
    writes it); "" where there is nothing.
    """

    def __init__(
        self,
        task: str,
        pid: int | None,
        exitcode: int | None,
        *,
        attempt: int = 1,
        detail: str = "",
        stderr: str = "",
        stack: str = "",
        oom: bool = False,
    ) -> None:
        self.task = task
        self.pid = pid
        self.exitcode = exitcode
        self.signal_name: str | None = signal_name(exitcode)
        self.attempt = attempt
        self.stderr = stderr
        self.stack = stack
        self.oom = oom
        self.quarantined: bool = False
        how = f"by {self.signal_name}" if self.signal_name else f"with exit code {exitcode}"
        super().__init__(f"the worker (pid {pid}) running {task} died {how}")
        for remark in (_OUT_OF_MEMORY if oom else "", detail):
            self._remark(remark)

    def __str__(self) -> str:
        return super().__str__() + last_words(self.stack, self.stderr)

    def _remark(self, text: str) -> None:
        """One more thing to say, before what the worker left behind."""
        if text:
            self.args: tuple[Any, ...] = (f"{self.args[0]}; {text}", *self.args[1:])

    def _quarantine(self, crashes: int) -> None:
        """Its policy would allow another attempt, which it does not get."""
        self.quarantined = True
        self._remark(
            f"it is quarantined, having crashed {crashes} workers: it is not run again, though "
            f"its retries are not used up; to run it again all the same, raise Retry(quarantine=)"
        )


class ResultLost(WorkerCrashed):
    """The machine or the process of a cluster that ran this call is gone, or out of reach.

    Whether its body has come to its end cannot be known. It is not run again unasked: that would
    be a second time, perhaps. `where` (str) names the place.
    """

    def __init__(self, task: str, where: str, *, attempt: int = 1) -> None:
        super().__init__(task, None, None, attempt=attempt)
        self.where = where
        text = (
            f"{where}, which ran {task}, is gone, and the outcome with it; to have such calls run "
        )
        self.args = (f"{text}again, use retries=Retry(crashes=...)",)


class InitializerFailed(UnirunError, BrokenProcessPool, BrokenThreadPool):
    """The initializer of the workers failed; `__cause__` is its own exception."""


def signal_name(exitcode: int | None) -> str | None:
    if exitcode is None or exitcode >= 0:
        return None
    import signal

    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


_OUT_OF_MEMORY = (
    "the system had run out of memory and killed it; use fewer workers, give the call less to do "
    "at once, limit it by memory=, or allow the container more"
)
_SHOWN_FRAMES = 8
_SHOWN_LINES = 5
_SHOWN_WIDTH = 200


def last_words(stack: str, stderr: str) -> str:
    """The part of what a worker left behind that fits an error message."""
    parts = []
    if frames := _where(stack):
        parts += ["  it was in (most recent call first):", *_shortened(frames[:_SHOWN_FRAMES])]
    lines = stderr.rstrip().splitlines()[-_SHOWN_LINES:]
    if lines:
        parts += ["  the last it wrote to stderr:", *_shortened(lines)]
    return "".join(f"\n{part}" for part in parts)


def _where(stack: str) -> list[str]:
    """The frames of the thread that crashed, as `faulthandler` writes them."""
    lines = stack.splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("Current thread")]
    frames: list[str] = []
    for line in lines[starts[0] + 1 :] if starts else []:
        if not line.startswith("  "):
            break
        frames.append(line)
    return frames


def _shortened(lines: list[str]) -> list[str]:
    return [f"    {line.strip()[:_SHOWN_WIDTH]}" for line in lines]


for _name in __all__[:4]:  # a traceback and a pickle show the public name
    globals()[_name].__module__ = "unirun"
del _name
