"""What a process holds of its system, and what lies about that has no process; Linux only."""

import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._peers import Absent
from benchmarks.lifecycle import descendants, private_memory

PATIENCE = 10.0
"""Seconds in which threads and processes that were told to end may do so."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Counts of one process; `memory` is in bytes, and counts nothing that is shared."""

    descriptors: int
    threads: int
    mappings: int
    memory: int


@dataclass(frozen=True, slots=True)
class Census:
    """This process, its children, and what outlives processes."""

    own: Holdings
    processes: int
    lasting: frozenset[str]
    """Files in /dev/shm (named semaphores among them) and where temporary files go."""

    def over(self, before: "Census") -> dict[str, float]:
        """What has come since, by name; nothing is negative."""
        more = {
            "descriptors": self.own.descriptors - before.own.descriptors,
            "threads": self.own.threads - before.own.threads,
            "mappings": self.own.mappings - before.own.mappings,
            "processes": self.processes - before.processes,
            "files, semaphores": len(self.lasting - before.lasting),
        }
        return {name: float(max(0, count)) for name, count in more.items()}


def require_proc() -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        raise Absent("this system does not tell what a process holds")


def holdings(pid: int) -> Holdings:
    place = Path(f"/proc/{pid}")
    return Holdings(
        len(list((place / "fd").iterdir())),
        len(list((place / "task").iterdir())),
        len((place / "maps").read_text().splitlines()),
        private_memory(pid),
    )


def take() -> Census:
    gc.collect()
    return Census(holdings(os.getpid()), len(descendants(os.getpid())), _lasting())


def take_when(is_settled: Callable[[Census], bool]) -> Census:
    """As soon as it is, or after some patience as it is then."""
    end = time.monotonic() + PATIENCE
    while not is_settled(found := take()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _lasting() -> frozenset[str]:
    places = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    files = {str(file) for place in places if place.is_dir() for file in place.iterdir()}
    semaphores = Path("/proc/sysvipc/sem")
    return frozenset(files | set(semaphores.read_text().splitlines()[1:]))
