"""How a test waits for processes, and runs programs: with deadlines on everything."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from process.line import PATIENCE


def until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
    """For what can only be looked at: fails if it does not become true."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"in {timeout:g} s it did not come true that {what}"
        time.sleep(0.002)


def is_gone(pid: int) -> bool:
    """No such process, or only what waits to be reaped."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until_gone(*pids: int, timeout: float = PATIENCE) -> None:
    until(lambda: all(map(is_gone, pids)), f"{pids} are gone", timeout)


def script(path: Path, source: str) -> list[str]:
    """A program with that text; the command that runs it."""
    file = path / "program.py"
    file.write_text(textwrap.dedent(source))
    return [sys.executable, str(file)]


def run(
    path: Path, source: str, *args: str, timeout: float = PATIENCE, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [*script(path, source), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=path,
        check=False,
        **options,
    )


def with_tests_on_path() -> dict[str, str]:
    """An environment for programs that use what lies here."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def zygote_of(executor: Any) -> psutil.Process:
    """The process that makes the workers of an executor."""
    workers = executor.stats()["process"].pids
    parent = psutil.Process(workers[0]).parent()
    assert parent is not None
    assert parent.ppid() == os.getpid()
    return parent
