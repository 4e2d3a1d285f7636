"""`unirun map`: a function over inputs, a JSON line for each."""

from __future__ import annotations

import _thread
import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from unirun._executor import Executor
from unirun._forms import BARS
from unirun._plan import Plan
from unirun._progress import Telling, bar
from unirun.backend import Capability
from unirun.cli import options as call_options
from unirun.cli import streams, target
from unirun.cli.calls import Call, Calls
from unirun.cli.inputs import STDIN, Reader
from unirun.cli.lines import Outcome, error_name, plain_line, report_line
from unirun.cli.status import FINE, INTERRUPTED, SOME_FAILED, STATUSES, WrongUse

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = f"""\
Run FUNCTION once for each INPUT, in parallel, and write each result to standard
output as one line of JSON, in the order of the inputs, as soon as it is there.
What functions print goes to standard error.

An INPUT is passed as a string. '-' stands for the lines of standard input, which
is read no faster than results are written and may be endless. With --jsonl each
INPUT is JSON: a list holds the arguments of the call, an object its keyword
arguments, and anything else is its one argument.

  unirun map os.path:getsize *.txt
  find . -name '*.py' | unirun map mymodule:check - --kind cpu --errors report
  unirun map --jsonl builtins:pow '[2, 10]' '[3, 4]'
  unirun map --jsonl mymodule:resize '{{"path": "a.png", "width": 80}}'

When a call fails:
  --errors raise    print its traceback, end what runs, and stop (the default)
  --errors skip     go on; it has no line
  --errors report   go on; every line tells what became of its input:
    {{"index": 0, "input": "a", "ok": true, "result": 1}}
    {{"index": 1, "input": "b", "ok": false,
     "error": {{"type": "ValueError", "message": "...", "traceback": "..."}}}}
A result that JSON cannot express counts as failed, unless --repr is given.

{STATUSES}"""

KILL_GRACE = 0.3
"""Seconds that running calls have after Ctrl-C to clean up: SIGTERM, this, SIGKILL."""
STOP_PATIENCE = 0.5
"""Seconds after Ctrl-C until calls that are left are not waited for."""
EXIT_PATIENCE = 0.9
"""Seconds after Ctrl-C until the program ends, whatever still hangs in it."""
MIN_WINDOW = 64
WINDOW_PER_WORKER = 16
MAX_WINDOW = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("function", metavar="MODULE:FUNCTION", help=target.HELP)
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="'-': the lines of stdin")
    parser.add_argument("--jsonl", action="store_true", help="inputs are JSON, not strings")
    parser.add_argument(
        "--unordered", action="store_true", help="write each line as soon as its call has ended"
    )
    parser.add_argument(
        "--errors", choices=("raise", "report", "skip"), default="raise", help="see above"
    )
    parser.add_argument(
        "--repr", action="store_true", help="write what JSON cannot express as its repr()"
    )
    call_options.add_arguments(parser)
    parser.add_argument(
        "--workers", metavar="N", help="how many calls run at once: a number, 'all' or 'half' cores"
    )
    parser.add_argument(
        "--chunksize",
        metavar="N",
        type=int,
        default=1,
        help="send N inputs at a time to a worker process, whose results come back together; "
        "for functions that take microseconds (default: 1)",
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a bar on standard error (default: if that is a terminal and stdout is not)",
    )
    parser.add_argument(
        "--bar", choices=BARS, help="what draws it (default: tqdm or rich if there, else plain)"
    )


def run(options: argparse.Namespace) -> int:
    _check(options)
    given = call_options.call_options(options)
    with ExitStack() as stack:
        stack.enter_context(_ends_soon_after_interrupt())
        stdin = stack.enter_context(streams.private_stdin()) if STDIN in options.inputs else None
        stdout = stack.enter_context(streams.private_stdout())
        fn = target.find(options.function)
        try:
            with _executor(options) as executor:
                return _Map(options, executor, fn, given, stdout).run(stdin)
        except _InputFailed as exc:
            exc.tell()
            return SOME_FAILED


def _check(options: argparse.Namespace) -> None:
    if not options.inputs:
        raise WrongUse("there is no input; give some, or '-' for the lines of standard input")
    if options.inputs.count(STDIN) > 1:
        raise WrongUse("standard input can be read only once; give '-' once")
    if options.chunksize < 1:
        raise WrongUse(f"--chunksize: cannot use {options.chunksize}; it must be 1 or more")


def _executor(options: argparse.Namespace) -> Executor:
    workers = options.workers
    if workers is not None:
        workers = call_options.setting("max_workers", options, "workers")
    with call_options.misuse():
        return Executor(workers, name="unirun-map")


class _InputFailed(Exception):
    """With --errors raise: the end of the map."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome

    def tell(self) -> None:
        error, one = self.outcome.error, self.outcome.input
        assert error is not None
        shown = repr(one.shown)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        traceback.print_exception(error)
        print(
            f"unirun: error: input {one.index}, {shown}, failed with {error_name(error)}; "
            "to go on after errors, use --errors report or --errors skip",
            file=sys.stderr,
        )


class _Map:
    """One run of the command, once everything is known to be usable."""

    def __init__(
        self,
        options: argparse.Namespace,
        executor: Executor,
        fn: Callable[..., Any],
        given: dict[str, Any],
        stdout: int,
    ) -> None:
        self._options = options
        self._executor = executor
        self._fn = fn
        self._stdout = stdout
        self._failed = self._done = 0
        self._sent: Iterable[Call] = ()
        with call_options.misuse():
            self._view = executor.options(**given)
            self._plan = executor._plan(fn, self._view._given)
        self._chunksize = _chunksize(options.chunksize, self._plan)
        self._progress = _progress(options, stdout, executor._bar)

    def run(self, stdin: int | None) -> int:
        workers = self._plan.backend.max_workers
        reader = Reader(
            self._options.inputs,
            stdin,
            is_json=self._options.jsonl,
            slots=_window(workers) * self._chunksize,
        )
        calls = Calls(
            self._view,
            self._fn,
            reader,
            ordered=not self._options.unordered,
            chunksize=self._chunksize,
            look=None if self._progress is None else self._look,
        )
        self._sent = calls.sent
        reader.start()
        try:
            for outcome in calls.outcomes():
                self._write(outcome)
        except KeyboardInterrupt:
            calls.stop(KILL_GRACE)
            self._executor.shutdown(cancel_futures=True, timeout=STOP_PATIENCE, kill=True)
            raise
        finally:
            reader.stop()
            if self._progress is not None:
                self._progress.close()
        return self._summary()

    def _look(self) -> None:
        if self._progress is not None:
            self._progress.update(self._done, self._sent)

    def _write(self, outcome: Outcome) -> None:
        line = self._line(outcome)
        if line and self._progress is not None and os.isatty(self._stdout):
            self._progress.clear()  # the line must not hang on to ours
        if line:
            streams.write(self._stdout, line)
        self._look()

    def _line(self, outcome: Outcome) -> bytes:
        self._done += 1
        if self._options.errors == "report":
            ok, line = report_line(outcome, or_repr=self._options.repr)
            self._failed += not ok
            return line
        if outcome.error is None:
            try:
                return plain_line(outcome, or_repr=self._options.repr)
            except TypeError as exc:
                outcome = Outcome(outcome.input, error=exc.with_traceback(None))
        self._failed += 1
        if self._options.errors == "raise":
            raise _InputFailed(outcome)
        return b""

    def _summary(self) -> int:
        if self._failed and self._options.errors == "skip":
            print(
                f"unirun: {self._failed} of {self._done} inputs failed; "
                "to see why, use --errors report",
                file=sys.stderr,
            )
        return SOME_FAILED if self._failed else FINE


def _chunksize(wish: int, plan: Plan) -> int:
    if Capability.ISOLATION not in plan.backend.capabilities:
        return 1  # nothing has to be sent, so nothing is gained
    if plan.single and wish > 1:
        raise WrongUse(
            f"--chunksize {wish} cannot be combined with an option that acts on single calls "
            "(a timeout, retries); drop one of them"
        )
    return wish


def _window(workers: int) -> int:
    """How many calls may be on their way, or have ended and wait for one before them."""
    return max(MIN_WINDOW, min(WINDOW_PER_WORKER * workers, 1024), min(workers, MAX_WINDOW))


def _progress(options: argparse.Namespace, stdout: int, setting: str) -> Telling | None:
    wish = options.progress
    if wish is None:
        wish = sys.stderr is not None and sys.stderr.isatty() and not os.isatty(stdout)
    if not wish:
        return None
    kind = options.bar or setting
    if os.isatty(stdout):  # where results are written between
        if options.bar == "rich":
            raise WrongUse(
                "--bar rich cannot share a terminal with the results; send these to a file, "
                "or use --bar plain"
            )
        kind = "plain"
    with call_options.misuse():
        telling = Telling(bar(kind, options.function))
    telling.start(None if STDIN in options.inputs else len(options.inputs))
    return telling


@contextmanager
def _ends_soon_after_interrupt() -> Iterator[None]:
    """From the first Ctrl-C on there is EXIT_PATIENCE to end in; the second ends us at once."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # whoever started us does not want Ctrl-C to end us, or sees to it himself
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Not a threading.Thread: the code that was interrupted may hold the lock that starting one
    # takes. Workers see our end and follow.
    _thread.start_new_thread(_end_for_sure, ())
    raise KeyboardInterrupt


def _end_for_sure() -> None:
    time.sleep(EXIT_PATIENCE)
    os._exit(INTERRUPTED)
