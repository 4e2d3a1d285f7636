"""The note on an exception that says which call it comes from, and where that was submitted.

    ValueError: no such row
    unirun: call 17 of app.load('rows.csv', row=3), attempt 1 in pid 4711, submitted at app.py:12

There is one for each call that the exception has left, the innermost first: a call that fails since
a call of its own has failed adds its own.
"""

from __future__ import annotations

from unirun._sites import site_of
from unirun._summary import arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["add_call_note", "add_note", "call_note", "drop_call_notes", "note_items"]

_START = "unirun: call "
_MOST = 10
"""So many of ours are kept, the latest: a program may raise the same object again and again."""


def call_note(
    name: str,
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    fn: Any = None,
    call: int | None = None,
    attempt: int = 1,
    worker: str = "",
) -> str:
    """Without where it was submitted. `args` is None where they are not known."""
    number = "" if call is None else f"{call} "
    shown = "..." if args is None else arguments(args, kwargs, fn)
    where = f" in {'' if worker.startswith(_PLACES) else 'thread '}{worker}" if worker else ""
    return f"{_START}{number}of {name}({shown}), attempt {attempt}{where}"


_PLACES = ("pid ", "this ")


def add_call_note(error: BaseException, note: str, site: str | None = None) -> None:
    """Add a `call_note` to an exception, unless it has it. Never raises."""
    if site is not None:
        note = f"{note}, submitted at {site}"
    try:
        notes = getattr(error, "__notes__", None)
        if isinstance(notes, list):
            if note in notes:
                return
            ours = [each for each in notes if isinstance(each, str) and each.startswith(_START)]
            if len(ours) >= _MOST:
                notes.remove(ours[0])
        add_note(error, note)
    except BaseException:  # the class is the user's, and its attributes  # noqa: BLE001
        return


def note_items(future: Any, items: Any, outcomes: Any) -> None:
    """On the errors among outcomes of a piece of a map, which call each item was.

    Not on that of an item which has taken its worker along: it is the error of the whole piece.
    """
    if outcomes.start is None:
        return
    told = future._tell_info()
    name = getattr(told.get("options"), "name", None) or told.get("function") or "the map"
    worker = told.get("worker") or "this process"
    for at, error in outcomes.errors.items():
        args = items.cut(outcomes.start + at).args()
        note = call_note(name, args, attempt=1, worker=worker)
        add_call_note(error, note, site_of(future))


def drop_call_notes(error: BaseException) -> None:
    """Of one that is told on, by who knows better which call it was."""
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        notes[:] = [each for each in notes if not str(each).startswith(_START)]


def add_note(error: BaseException, note: str) -> None:
    """As `add_note`, also where the class lets nobody set an attribute, as frozen ones do."""
    try:
        error.add_note(note)
    except Exception:  # noqa: BLE001  # user code: its __setattr__, or notes that are no list
        notes = getattr(error, "__notes__", None)
        notes = [*notes, note] if isinstance(notes, list) else [note]
        object.__setattr__(error, "__notes__", notes)
