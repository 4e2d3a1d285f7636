"""What a benchmark is: a function that measures one contender, and the rows its figures fill."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Sizes = Mapping[str, int]
Figures = dict[str, float]
"""Key of a row -> seconds, bytes or a plain number. Less is always better."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: the figure `key` of ours and of a peer, and what it has to reach."""

    key: str
    ours: str
    peer: str | None
    at_least: float | None = None
    """Of the peer's figure divided by ours."""
    at_most: float | None = None
    """Of our own figure."""


@dataclass(frozen=True, slots=True)
class Workload:
    """`measure(contender, sizes)` is called in a process of its own, once per round."""

    name: str
    what: str
    unit: str
    measure: Callable[[str, Sizes], Figures]
    rows: tuple[Row, ...]
    sizes: Sizes
    quick: Sizes
    needs: tuple[str, ...] = field(default=())
    """Packages without which nobody can be measured."""
    brief: Sizes = field(default_factory=dict)
    """What to put into `sizes` where everything has to be measured within minutes."""

    @property
    def contenders(self) -> tuple[str, ...]:
        """Everyone who is measured, ours before the peers it is compared with."""
        names = [name for row in self.rows for name in (row.ours, row.peer) if name is not None]
        return tuple(dict.fromkeys(names))
