"""Progress of a map: a callable of the user's, or a bar: that of rich or tqdm, or a plain line.

`progress=True` draws where somebody looks: on a terminal, or in a notebook.  Who names a bar has it
drawn in any case, into a log too.
"""

from __future__ import annotations

import itertools
import os
import sys

from unirun._deferral import imported
from unirun._forms import BARS
from unirun._terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Protocol

    from unirun._reports import Progress
else:
    Protocol = object  # `typing` takes 3 ms to import

__all__ = ["Bar", "Telling", "bar", "make_progress"]

MOST_LOOKED_AT = 1000
"""Calls of a map that are asked how far they are, each time."""


class Bar(Protocol):
    def start(self, total: int | None) -> None: ...
    def update(self, done: int, running: Sequence[Progress] = ()) -> None:
        """`running`: how far the items are that run, as far as they tell."""

    def close(self) -> None: ...


class Telling:
    """The progress of one map: begun when somebody begins to read, ended with the map.

    It belongs to who reads at the moment.
    """

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._is_begun = False

    def start(self, total: int | None) -> None:
        """Now, if it has not begun: a map that nobody reads would leave it open."""
        if not self._is_begun:
            self._is_begun = True
            self._bar.start(total)

    def update(self, done: int, sent: Iterable[Any]) -> None:
        """So many results were taken; `sent`: what runs, each with its `future`."""
        running = []
        for call in itertools.islice(sent, MOST_LOOKED_AT):
            told = call.future.progress
            if told is not None and not call.future.done():
                running.append(told)
        self._bar.update(done, running)

    def clear(self) -> None:
        """Leave the line to somebody else until the next update, where bars have a line."""
        clear = getattr(self._bar, "clear", None)
        if clear is not None:
            clear()

    def close(self) -> None:
        if self._is_begun:
            self._bar.close()


class _Callable:
    def __init__(self, report: Callable[..., object]) -> None:
        self._report = report
        self._total: int | None = None
        self._takes_running = _takes_running(report)
        self._told: tuple[int, tuple[Progress, ...]] = (0, ())

    def start(self, total: int | None) -> None:
        self._total = total

    def update(self, done: int, running: Sequence[Progress] = ()) -> None:
        now = (done, tuple(running) if self._takes_running else ())
        if now == self._told:
            return
        self._told = now
        if self._takes_running:
            self._report(done, self._total, running=now[1])
        else:
            self._report(done, self._total)

    def close(self) -> None:
        """The last update has told everything."""


def _takes_running(report: Callable[..., object]) -> bool:
    import inspect

    try:
        return "running" in inspect.signature(report).parameters
    except (TypeError, ValueError):  # one of C that does not say
        return False


def make_progress(wish: Any, label: str, kind: str = "auto") -> Telling | None:
    """None or False: none. True: a bar of that kind, if somebody looks at stderr. A name of one:
    that. A callable gets (done, total or None), and `running=` if it has a parameter of that name.
    """
    if wish is None or wish is False:
        return None
    if wish is True:
        return Telling(bar(kind, label)) if _is_seen() else None
    if isinstance(wish, str):
        if wish not in BARS:
            from unirun._forms import unknown

            raise ValueError(unknown("kind of progress bar", wish, BARS, many="bars"))
        return Telling(bar(wish, label))
    if not callable(wish):
        raise TypeError(f"progress must be a bool, the name of a bar or a callable, not {wish!r}")
    return Telling(_Callable(wish))


def bar(kind: str, label: str) -> Bar:
    """A bar of that kind on stderr; "auto": the one that fits, of those that are installed.

    Raises:
        BackendUnavailable: its package is not installed.
    """
    if kind == "auto":
        kind = _kind_that_fits()
    if kind == "plain":
        made = imported("unirun._line").Line
        return made(label, is_seen=True if _in_notebook() else None)  # type: ignore[no-any-return]
    if not _is_installed(kind):
        from unirun._errors import BackendUnavailable

        raise BackendUnavailable(
            f"progress={kind!r} needs {kind!r}; run: pip install {kind}, or take progress='plain'"
        )
    return imported(f"unirun.integrations.{kind}_bar").make(label, _in_notebook())  # type: ignore[no-any-return]


def _is_seen() -> bool:
    return is_terminal(sys.stderr) or _in_notebook()


def _kind_that_fits() -> str:
    """What the program uses already; else what is installed, the lighter one first."""
    if os.environ.get("TERM") == "dumb" or not _is_seen():
        return "plain"
    there = [kind for kind in ("tqdm", "rich") if _is_installed(kind)]
    there.sort(key=lambda kind: _IN_USE[kind] not in sys.modules)
    return there[0] if there else "plain"


_IN_USE = {"rich": "rich.progress", "tqdm": "tqdm.std"}
"""The module that a program has imported which draws bars with it."""


def _is_installed(kind: str) -> bool:
    if kind in sys.modules:
        return sys.modules[kind] is not None
    from importlib.util import find_spec

    return find_spec(kind) is not None


def _in_notebook() -> bool:
    """Whether what is written is shown in a cell of Jupyter."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else getattr(ipython, "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
