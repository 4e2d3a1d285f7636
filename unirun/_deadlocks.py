"""Who waits for whom: circles of waits that can never end, and how to tell people of one.

Pure, like `coordinator.py`, which says what the rule is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Wait = TypeVar("Wait")


def circle_of(start: Wait, next_wait: Callable[[Wait], Wait | None]) -> list[Wait]:
    """The waits of the circle that `start` is in, itself first; empty if it is in none.

    `next_wait` says which wait has to end before another one can; None if no wait has to.
    """
    circle = [start]
    following = next_wait(start)
    while following is not None and following is not start:
        if following in circle:
            return []  # it leads into a circle of others, and is not part of it
        circle.append(following)
        following = next_wait(following)
    return circle if following is start else []


def describe(waits: Sequence[tuple[str, str]]) -> str:
    """A circle for people: who waits for what; each holds what the one before it waits for."""
    parts = []
    held = waits[-1][1]
    for who, wanted in waits:
        parts.append(f"{who or 'somebody'} holds {held} and waits for {wanted}")
        held = wanted
    return (
        "this wait would never have ended: "
        + ", ".join(parts)
        + "; acquire locks in the same order everywhere, or with a timeout"
    )
