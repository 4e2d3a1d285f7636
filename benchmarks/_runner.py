"""Runs a workload round by round, its contenders taking turns, each time in a fresh process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from benchmarks import ROOT
from benchmarks._peers import OURS, is_installed
from benchmarks._workload import Figures, Sizes, Workload

TIMEOUT = 300.0  # seconds for one measurement; one that hangs must not end the others


@dataclass(slots=True)
class Measured:
    """What a contender achieved: one dict of figures for each round, or why there is none."""

    rounds: list[Figures] = field(default_factory=list)
    missing: str = ""
    """Not installed, or not offered here."""
    failed: str = ""
    """It was tried, and broke."""

    def figures(self, key: str) -> list[float]:
        return [] if self.missing or self.failed else [r[key] for r in self.rounds if key in r]


def run(
    workload: Workload, rounds: int, sizes: Sizes, peers: Collection[str]
) -> dict[str, Measured]:
    """Measure every contender that is ours, and those of `peers`."""
    names = [name for name in workload.contenders if name in OURS or name in peers]
    found = {name: Measured(missing=_lacks(workload, name)) for name in names}
    for _ in range(rounds):
        for name, measured in found.items():
            if not (measured.missing or measured.failed):
                _add_round(measured, workload.name, name, sizes)
    return found


def _lacks(workload: Workload, name: str) -> str:
    needs = [package for package in workload.needs if find_spec(package) is None]
    needs += [] if is_installed(name) else [name]
    return f"{', '.join(needs)} not installed" if needs else ""


def _add_round(measured: Measured, workload: str, contender: str, sizes: Sizes) -> None:
    wanted = {"workload": workload, "contender": contender, "sizes": dict(sizes)}
    with tempfile.TemporaryDirectory() as directory:
        file, log = Path(directory, "wanted.json"), Path(directory, "stderr")
        file.write_text(json.dumps(wanted))
        with log.open("wb") as stderr, _process(file, stderr.fileno()) as process:
            try:
                status: int | str = process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                status = f"no end within {TIMEOUT:g} s"
        if status == 0:
            found = json.loads(file.read_text())
            measured.missing = found.get("absent", "")
            measured.rounds.append(found.get("figures", {}))
        else:
            said = log.read_text(errors="replace").strip().splitlines()
            measured.failed = f"{status}: {said[-1] if said else 'nothing on stderr'}"


@contextlib.contextmanager
def _process(file: Path, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own group, which is ended with all that is left of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._one", str(file)],
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if not name.startswith("UNIRUN_")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left, as it should be
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
