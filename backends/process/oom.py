"""How often the kernel has killed one of us for want of memory.

A worker that dies by SIGKILL says nothing of why.  The kernel counts its own such kills for each
control group, ours among them: if the number has grown since the worker began, that was it.
The number of the whole system is not asked: it counts what has nothing to do with us, and takes
the kernel a millisecond.

Only the parent's group is looked at, which its workers are born into.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["OomCounter"]


class OomCounter:
    """For who has the pool's role. `root` is where the file system begins; tests have their own."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        counting = (path for path in self._candidates() if _count_in(path) is not None)
        self._path = next(counting, None)

    def count(self) -> int:
        """Kills so far; only ever grows. 0 where nobody counts."""
        return 0 if self._path is None else _count_in(self._path) or 0

    def _candidates(self) -> Iterator[str]:
        groups = self._groups()
        # Version 1 first: where both are mounted, it is the one that has the memory.
        for kind, file in (("memory", "memory.oom_control"), ("", "memory.events")):
            for mounted, point in self._mounts(kind):
                if kind in groups:
                    yield self._at(point, _inside(mounted, groups[kind]), file)

    def _groups(self) -> dict[str, str]:
        """Controller -> the group that governs it for us; "" stands for version 2."""
        lines = [line.split(":", 2) for line in self._read("proc/self/cgroup").splitlines()]
        return {kind: each[2] for each in lines if len(each) == 3 for kind in each[1].split(",")}

    def _mounts(self, kind: str) -> list[tuple[str, str]]:
        """(group that is mounted, where) for each mount of a controller, as `_groups` names it."""
        mounts = []
        for line in self._read("proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            place, system = before.split(), after.split()
            if len(place) < 5 or len(system) < 3:
                continue
            wanted = kind in system[2].split(",") if kind else system[0] == "cgroup2"
            if wanted and system[0].startswith("cgroup"):
                mounts.append((_unescaped(place[3]), _unescaped(place[4])))
        return mounts

    def _read(self, path: str) -> str:
        try:
            with open(self._at(path), encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return ""  # another kernel, or one that shows us nothing

    def _at(self, *parts: str) -> str:
        return os.path.join(self._root, *(part.lstrip("/") for part in parts))


def _inside(mounted: str, group: str) -> str:
    """Where `group` is under a mount that shows `mounted`; at its top if that is not above it."""
    top = mounted.rstrip("/")
    return group[len(top) :] if f"{group}/".startswith(f"{top}/") and "/.." not in group else ""


def _count_in(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        return None  # out of descriptors, or gone with its group
    return None


def _unescaped(path: str) -> str:
    """As mountinfo writes them, blanks and the like are octal."""
    for character in " \t\n\\":  # the backslash last, it may stand before digits by itself
        path = path.replace(f"\\{ord(character):03o}", character)
    return path
