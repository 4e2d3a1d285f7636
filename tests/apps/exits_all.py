"""Runs `exits.py` in every combination of backend, state and ending, and judges each.

    python tests/apps/exits_all.py

Exit status: 0, or 1 with a line for each fault.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from apps.exits import BACKENDS, ENDINGS, OWN, STATES

GRACE = 0.5  # exit_grace of programs in which something hangs
BOUND = GRACE + 5.0  # what they may be late by, when something hangs; and the machine is busy
BUSY = 15.0
PROGRAM = Path(__file__).with_name("exits.py")

STATUS = {
    **dict.fromkeys(["error", "error_in_with", "hook"], 1),
    **dict.fromkeys(["exit_3", "exit_3_in_with", "stderr_closed", "stderr_broken"], 3),
    "os_exit_4": 4,
    "ctrl_c": -signal.SIGINT,
    "sigterm": -signal.SIGTERM,
    "sigkill": -signal.SIGKILL,
}
"""The exit status of each ending; 0 for the others."""
AT_ONCE = ("ctrl_c", "error_in_with", "exit_3_in_with", "shutdown_that_kills")
"""Endings that finish nothing."""
BY_FORCE = ("os_exit_4", "sigterm", "sigkill")
"""Endings of which Python does not know."""


class Seen(NamedTuple):
    backend: str
    state: str
    ending: str
    status: int | None  # None: it did not end
    seconds: float
    errors: str
    log: list[str]
    left: list[str]  # processes and files


def run(backend: str, state: str, ending: str, directory: Path) -> Seen:
    import psutil

    (directory / "tmp").mkdir(parents=True)
    mark = f"{os.getpid()}-{backend}-{state}-{ending}"
    environment = os.environ | {
        "TMPDIR": str(directory / "tmp"),
        "EXITS": mark,
        "UNIRUN_EXIT_GRACE": str(GRACE if _hangs(state, ending) else BUSY),
        "UNIRUN_GRACE": "0.2",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
    }
    began = time.monotonic()
    status: int | None = None
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), backend, state, ending],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=directory,
    ) as process:
        try:
            _, errors = process.communicate(timeout=BOUND + BUSY)
            status = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
    seconds = time.monotonic() - began
    log = directory / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    left = [str(each) for each in _left(psutil, mark)]
    left += [each.name for each in (directory / "tmp").iterdir()]
    return Seen(backend, state, ending, status, seconds, errors, lines, left)


def _hangs(state: str, ending: str) -> bool:
    return state in ("hung", "stubborn") or ending in ("callback_hangs", "retried")


def _left(psutil: Any, mark: str) -> list[Any]:
    """Processes of that program, after a moment in which they may end."""
    end = time.monotonic() + 5.0
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("EXITS") == mark and process.status() != "zombie":
                    found.append(process)
            except (psutil.Error, OSError):
                continue  # somebody else's, or gone
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.02)


def faults(seen: Seen) -> list[str]:
    """What is not as it has to be; nothing, if all is well."""
    hangs = seen.state in ("hung", "stubborn")
    if seen.status is None:
        return ["it does not end"]
    found = [f"left: {each}" for each in seen.left]
    if seen.status != STATUS.get(seen.ending, 0):
        found.append(f"its status is {seen.status}")
    found += _wrong_words(seen, hangs)
    finishes = seen.ending not in (*AT_ONCE, *BY_FORCE, "callback_hangs", "limited", "retried")
    if finishes and seen.state in ("pending", "running") and "finished" not in seen.log:
        found.append("a call was lost")
    if finishes and seen.state == "pending" and seen.log.count("quick") < 5:
        found.append("a call that waited was lost")
    if seen.ending in ("thread_waits", "limited") and not _told(seen) and seen.log:
        found.append("a thread that waited was told nothing")
    if seen.ending in ("at_exit", "finalizer") and (
        "taken" in seen.log or sum("interpreter shutdown" in line for line in seen.log) < 3
    ):
        found.append(f"what came too late was not refused: {seen.log}")
    if seen.ending == "child" and "child: 0" not in seen.log:
        found.append(f"the child: {seen.log}")
    return found


def _told(seen: Seen) -> bool:
    return any(line.startswith("waiter") for line in seen.log) or seen.backend == "inline"


def _wrong_words(seen: Seen, hangs: bool) -> list[str]:
    """At most the program's own traceback, and one line of ours."""
    lines = seen.errors.splitlines()
    ours = [line for line in lines if line.startswith("unirun:")]
    own = (OWN in seen.errors) + ("KeyboardInterrupt" in seen.errors)
    own += "exception calling callback" in seen.errors
    tracebacks = seen.errors.count("Traceback (most recent call last)")
    if len(ours) > 1 or tracebacks > own or (not own and lines != ours):
        return [f"it says: {seen.errors}"]
    silent = seen.ending in (*AT_ONCE, *BY_FORCE, "stderr_closed", "stderr_broken")
    if hangs and not silent and not (ours and "ended calls that hung for 0.5 s" in ours[0]):
        return [f"it does not name what hung: {seen.errors}"]
    return []


def run_all(
    combinations: Iterable[tuple[str, str, str]], directory: Path, at_once: int = 4
) -> list[str]:
    """What is wrong with which of them."""

    def judge(numbered: tuple[int, tuple[str, str, str]]) -> list[str]:
        number, combination = numbered
        seen = run(*combination, directory / str(number))
        where = "/".join(combination)
        return [f"{where}: {fault} ({seen.seconds:.1f} s)" for fault in faults(seen)]

    with ThreadPoolExecutor(at_once) as threads:
        return list(itertools.chain(*threads.map(judge, enumerate(combinations))))


def main() -> int:
    every = list(itertools.product(BACKENDS, STATES, ENDINGS))
    with tempfile.TemporaryDirectory() as directory:
        found = run_all(every, Path(directory))
    print(*found, f"combinations: {len(every)}, faults: {len(found)}", sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
