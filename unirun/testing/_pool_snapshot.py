"""Two pool machines: how to copy one as it stands, and whether two will do the same."""

from __future__ import annotations

from typing import Any

# What a machine is made of: each part is copied and compared in its own way.
SETS = ("_starting", "_stopping", "_fresh", "_held_up", "_slow", "_leaving", "_mixed")
LINES = ("_busy", "_dying", "_settled")
VALUES = ("size", "spares", "broken", "closed", "_lent", "_failed_starts", "_aborted")
ALL = {*SETS, *LINES, *VALUES, "_targets", "_idle", "_waiting", "_windows", "_next_worker"}


def copy_of(state: Any) -> Any:
    new = object.__new__(type(state))
    parts = new.__dict__ = state.__dict__.copy()
    for name in (*SETS, "_idle", "_windows"):
        parts[name] = parts[name].copy()
    for name in (*LINES, "_targets"):
        parts[name] = {worker: each.copy() for worker, each in parts[name].items()}
    waiting = state._waiting
    parts["_waiting"] = line = object.__new__(type(waiting))
    line.__dict__.update(waiting.__dict__)
    line._lines = {priority: each.copy() for priority, each in waiting._lines.items()}
    line._priorities = waiting._priorities.copy()
    return new


def key_of(state: Any, names: dict[int, int]) -> tuple[Any, ...]:
    """Equal for machines that will do the same; workers are called as `names` says."""
    s, name = state.__dict__, names.get
    return (
        *[frozenset(map(name, s[each])) for each in SETS],
        *[tuple([(name(n), *calls) for n, calls in s[each].items()]) for each in LINES],
        frozenset([(name(n), *sorted(map(id, each))) for n, each in s["_targets"].items()]),
        tuple(map(name, s["_idle"])),
        tuple(s["_waiting"]),
        frozenset(s["_windows"].items()),
        *[s[each] for each in VALUES],
    )
