"""What calls print: into the program's streams, or onto their futures.

Workers tell what they print piece by piece (`unirun.backends.process.relays`); it is written here,
in the one thread of `_news`, into what `sys.stdout` and `sys.stderr` are at that moment: so it is
seen in a notebook, by `contextlib.redirect_stdout` and by pytest's `capsys`.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from unirun._future import Future
    from unirun._news import Origin

__all__ = ["Output", "heard", "output_of", "record_of"]

MOST = 8 << 20
"""Characters that are kept of one call; of more, the last."""


class Output:
    """What a call has printed, by `capture=True`: `str(output)` is all of it, in order.

    `stdout` and `stderr` are the two parts (str), `dropped` is how many characters are missing at
    the beginning, as more than 8 million were printed. Comparing with a string, `in`, `len()` and
    `splitlines()` work as on `str(output)`. It may be read while the call runs.
    """

    __slots__ = ("_decoders", "_pieces", "_size", "dropped")

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, str]] = deque()  # 1: stdout; 2: stderr
        self._size = 0
        self._decoders: dict[int, Any] = {}
        self.dropped: int = 0

    @property
    def stdout(self) -> str:
        """What was printed to `sys.stdout`."""
        return self._joined(1)

    @property
    def stderr(self) -> str:
        """What was printed to `sys.stderr`."""
        return self._joined(2)

    def splitlines(self) -> list[str]:
        """The lines of both, in order."""
        return str(self).splitlines()

    def _joined(self, which: int) -> str:
        return "".join(text for stream, text in list(self._pieces) if stream == which)

    def _add(self, which: int, piece: str | bytes) -> None:
        """Of one thread at a time, or pieces may be in another order than they came."""
        if isinstance(piece, bytes):
            decoder = self._decoders.get(which)
            if decoder is None:
                decoder = self._decoders[which] = codecs.getincrementaldecoder("utf-8")("replace")
            piece = str(decoder.decode(piece))
        self._pieces.append((which, piece))
        self._size += len(piece)
        while self._size > MOST and len(self._pieces) > 1:
            try:
                gone = len(self._pieces.popleft()[1])
            except IndexError:
                break  # another thread has done the same
            self._size -= gone
            self.dropped += gone

    def __str__(self) -> str:
        return "".join(text for _, text in list(self._pieces))

    def __repr__(self) -> str:
        return f"<output {str(self)!r}>"

    def __len__(self) -> int:
        return len(str(self))

    def __contains__(self, text: str) -> bool:
        return text in str(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | Output):
            return str(self) == str(other)
        return NotImplemented

    def __hash__(self) -> int:
        return object.__hash__(self)


Output.__module__ = "unirun"


def record_of(future: Future[Any]) -> Output:
    """Where what the call prints is kept; the same one for whoever asks first."""
    record: Output = future.__dict__.setdefault("_output", Output())
    return record


def output_of(future: Any) -> Output | None:
    """What was kept of a call, also of one that is run again; None if nothing was to be."""
    while future is not None:
        record: Output | None = future.__dict__.get("_output")
        if record is not None:
            return record
        future = future.__dict__.get("_attempt") or future.__dict__.get("_inner")
    return None


# -- what workers tell ----------------------------------------------------------------------------

_open_line: list[Any] = [None, ""]  # who has begun the line that is not whole, and in what stream


def heard(origin: Origin, told: Any) -> None:
    """A worker has printed something."""
    which, piece = told
    future = origin.future
    if future is not None and future.options.capture:
        record_of(future)._add(which, piece)
        return
    stream = sys.stdout if which == 1 else sys.stderr
    if stream is None:
        return  # as with a `print` here
    _end_line_of_another(origin.worker, stream)
    try:
        _write(stream, piece)
    except (OSError, ValueError):
        return  # the program has closed it, or nobody reads it: as its own prints
    ends = piece.endswith(b"\n" if isinstance(piece, bytes) else "\n")
    _open_line[:] = (None, None) if ends else (origin.worker, stream)


def _end_line_of_another(worker: str, stream: TextIO) -> None:
    """A line that a worker has flushed before it was whole is not continued by another."""
    owner, where = _open_line
    if owner is not None and owner != worker and where is stream:
        try:
            stream.write("\n")
        except (OSError, ValueError):
            return  # as above


def _write(stream: TextIO, piece: str | bytes) -> None:
    if isinstance(piece, bytes):
        buffer = getattr(stream, "buffer", None)
        if buffer is not None:
            stream.flush()
            buffer.write(piece)
            buffer.flush()
            return
        piece = piece.decode("utf-8", "replace")
    try:
        stream.write(piece)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(piece.encode(encoding, "backslashreplace").decode(encoding))
    if isinstance(stream, io.TextIOWrapper):  # others may take long, and know when to do it
        stream.flush()
