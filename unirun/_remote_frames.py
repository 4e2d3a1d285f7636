"""Frames of another process: as they were there, and as traceback entries here.

The entries show the source wherever this process finds it.  Where it does not, since a file exists
only there, or a name such as "<cell 3>" means something only there, the lines that the frames are
at came along, and `linecache` has them: so `traceback`, `logging`, pytest and pdb show them.
"""

from __future__ import annotations

import os
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeAlias

    Frame: TypeAlias = tuple[str, int, str]  # file, line, name of the function
    Sources: TypeAlias = dict[str, dict[int, str]]  # by file and line

__all__ = ["formatted", "frames_of", "learn", "sources_of", "traceback_of"]

_MAX_FRAMES = 200  # of each end; a recursion error has a thousand
_MAX_LINES = 50
_MAX_WIDTH = 500
_MAX_FILES = 100


def frames_of(exc: BaseException, skip: int) -> list[Frame]:
    frames = []
    tb = exc.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        frames.append((code.co_filename, tb.tb_lineno or 0, code.co_qualname))
        tb = tb.tb_next
    frames = frames[skip:]
    if len(frames) <= 2 * _MAX_FRAMES:
        return frames
    return frames[:_MAX_FRAMES] + frames[-_MAX_FRAMES:]


def sources_of(exc: BaseException, sources: Sources) -> None:
    """Add the lines that its frames are at, but of what belongs to the installation."""
    import linecache

    count = sum(map(len, sources.values()))
    tb = exc.__traceback__
    while tb is not None and count < _MAX_LINES:
        name, line = tb.tb_frame.f_code.co_filename, tb.tb_lineno or 0
        if not name.startswith(_INSTALLED) and line not in sources.get(name, ()):
            text = linecache.getline(name, line, tb.tb_frame.f_globals)
            if text and len(text) <= _MAX_WIDTH:
                sources.setdefault(name, {})[line] = text
                count += 1
        tb = tb.tb_next


_INSTALLED = (sys.prefix + os.sep, sys.base_prefix + os.sep, "<frozen ")


class _Lines(list[str]):
    """Some lines of a file that this process has not."""


def learn(sources: Sources) -> None:
    """Have `linecache` know the lines of files that are not here."""
    if not sources:
        return
    import linecache

    for name, lines in sources.items():
        if os.path.isabs(name) and os.path.exists(name):
            continue
        entry: Any = linecache.cache.get(name)
        known = entry[2] if entry is not None and len(entry) == 4 else None
        if known and not isinstance(known, _Lines):
            continue  # a notebook has told of its cells itself
        kept = _Lines(known or ())
        kept += [""] * (max(lines) - len(kept))
        for line, text in lines.items():
            kept[line - 1] = text
        # Without a time, so that no look at the disk finds it gone.
        linecache.cache[name] = (sum(map(len, kept)), None, kept, name)
        _forget_old(linecache.cache, name)


_learned: dict[str, None] = {}


def _forget_old(cache: dict[str, Any], newest: str) -> None:
    _learned.pop(newest, None)
    _learned[newest] = None
    while len(_learned) > _MAX_FILES:
        cache.pop(next(iter(_learned)), None)
        del _learned[next(iter(_learned))]


def formatted(frames: Iterable[Frame]) -> str:
    return "".join(f'  File "{name}", line {line}, in {fn}\n' for name, line, fn in frames)


def traceback_of(frames: list[Frame]) -> types.TracebackType | None:
    """Real traceback entries for them, innermost last."""
    tb: types.TracebackType | None = None
    for filename, line, name in reversed(frames):
        tb = types.TracebackType(tb, _frame(filename, line, name), 0, max(line, 1))
    return tb


def _frame(filename: str, line: int, name: str) -> types.FrameType:
    """A frame whose code has that name: of a generator that never began.

    It has nobody above it.  The frame of a function would keep those of all its callers, and what
    they know: a batch of futures, as long as somebody keeps the exception of one of them.
    """
    code = _STUB.replace(
        co_filename=filename, co_firstlineno=max(line, 1), co_name=name, co_qualname=name
    )
    frame: types.FrameType = types.FunctionType(code, {"__name__": "unirun.remote"})(_NONE).gi_frame
    return frame


def _stub() -> types.CodeType:
    """A generator's code, whose every instruction is on its first line, in no column.

    A traceback takes line and columns from the instruction, not from `tb_lineno`.
    """
    code = compile("(None for _ in ())", "<remote>", "exec").co_consts[0]
    assert isinstance(code, types.CodeType)
    units = len(code.co_code) // 2
    sizes = [min(8, units - start) for start in range(0, units, 8)]
    # "No columns": code 13 and the size, then the difference of the lines, which is 0.
    return code.replace(co_linetable=b"".join(bytes((0xE8 | size - 1, 0)) for size in sizes))


_STUB = _stub()
_NONE: Any = iter(())
