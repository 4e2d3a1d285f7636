"""What this machine, or the container around us, lets us use."""

from __future__ import annotations

import os
import sys

__all__ = ["cpu_count", "free_threaded_build", "gil_enabled", "python_executable"]

_CGROUP = "/sys/fs/cgroup"


def cpu_count() -> int:
    """Cores this process may use: those in its affinity mask, within its cgroup's CPU quota.

    At least 1. A quota of 1.5 cores counts as 2.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = cgroup_quota()
    return cores if quota is None else max(1, min(cores, -int(-quota // 1)))


def cgroup_quota(root: str = _CGROUP, own: str = "/proc/self/cgroup") -> float | None:
    """The tightest CPU quota above this process, in cores; None if there is none.

    Args:
        root: where the cgroup file system is mounted.
        own: the file that tells which cgroup this process is in.
    """
    quotas = [
        quota
        for folder in _folders(root, own)
        for quota in (_quota_v2(folder), _quota_v1(folder))
        if quota is not None
    ]
    return min(quotas, default=None)


def gil_enabled() -> bool:
    """False on a free-threaded build that runs without the GIL."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def free_threaded_build() -> bool:
    """Whether this Python can run without a GIL; it may have one all the same.

    By its version's text, as the documentation of Python says: `sysconfig` takes long to ask.
    """
    return "free-threading build" in sys.version


def python_executable() -> str:
    """The interpreter to start; `multiprocessing.set_executable` may have named it.

    Raises OSError where there is none.  A frozen program would start itself, and so on.
    """
    spawn = sys.modules.get("multiprocessing.spawn")
    chosen = os.fsdecode((sys.executable if spawn is None else spawn.get_executable()) or "")
    frozen = getattr(sys, "frozen", False) and chosen == sys.executable
    if chosen and not frozen:
        return chosen
    what = "a frozen program is no Python" if frozen else "sys.executable is empty"
    raise OSError(
        f"{what}; name a Python by multiprocessing.set_executable(), or use mp_context='fork' or "
        "backend='thread'"
    )


def _folders(root: str, own: str) -> list[str]:
    """The folders of our cgroup and all above it; in a container the root alone may be visible."""
    folders = [root, f"{root}/cpu"]
    for line in _read(own).splitlines():
        hierarchy, controllers, path = [*line.split(":", 2), "", ""][:3]
        base = root if hierarchy == "0" else f"{root}/cpu"
        if hierarchy == "0" or "cpu" in controllers.split(","):
            parts = [part for part in path.split("/") if part not in ("", "..")]
            folders += [f"{base}/{'/'.join(parts[:n])}" for n in range(1, len(parts) + 1)]
    return folders


def _quota_v2(folder: str) -> float | None:
    fields = _read(f"{folder}/cpu.max").split()
    return _ratio(fields[0], fields[1]) if len(fields) >= 2 else None  # empty in some containers


def _quota_v1(folder: str) -> float | None:
    return _ratio(_read(f"{folder}/cpu.cfs_quota_us"), _read(f"{folder}/cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    try:
        ratio = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max", or nothing there
    return ratio if ratio > 0 else None


def _read(path: str) -> str:
    try:
        # Names of cgroups are bytes like other file names.
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""
