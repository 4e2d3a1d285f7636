"""Frames survive whatever a pipe does to them."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirun.backends.process import wire
from unirun.backends.process.wire import FrameReader, pack, write_all

Message = tuple[Any, ...]

BIG = (1 << 18) + 17  # more than the reader takes at once

atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=20), st.binary(max_size=100)
)
messages = st.builds(
    lambda code, rest: (code, *rest), st.integers(0, 16), st.lists(atoms, max_size=4)
)


def read_in_pieces(data: bytes, cuts: list[int]) -> list[Message]:
    """What a reader makes of `data` that comes in pieces which end at `cuts`."""
    reader, found = FrameReader(), []
    source, sink = os.pipe()
    os.set_blocking(source, False)
    try:
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            os.write(sink, data[begin:end])
            found += read_all(reader, source)
        os.close(sink)
        with pytest.raises(EOFError):
            reader.receive(source)
    finally:
        os.close(source)
    return found


def read_all(reader: FrameReader, fd: int) -> list[Message]:
    found: list[Message] = []
    while True:
        try:
            found += reader.receive(fd)
        except BlockingIOError:
            return found


@settings(max_examples=60, deadline=None)
@given(sent=st.lists(messages, max_size=5), data=st.data())
def test_messages_arrive_whole_however_the_pipe_cuts_them(
    sent: list[Message], data: st.DataObject
) -> None:
    stream = b"".join(pack(*message) for message in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    assert read_in_pieces(stream, cuts) == sent


@pytest.mark.parametrize("size", [0, 1, 65_535, BIG - 40, BIG, 5 * BIG])
def test_messages_of_any_size_pass_a_real_pipe(size: int) -> None:
    sent = [(1, b"before"), (2, os.urandom(size)), (3, b"after")]
    reader, found = FrameReader(), []
    source, sink = os.pipe()

    def write() -> None:
        for message in sent:
            write_all(sink, pack(*message))
        os.close(sink)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(found) < len(sent):
            found += reader.receive(source)
        with pytest.raises(EOFError):
            reader.receive(source)
    finally:
        os.close(source)
        writer.join(10)
    assert found == sent


def test_the_end_of_the_pipe_in_the_middle_of_a_message_is_the_end() -> None:
    for size in (100, BIG):
        reader, (source, sink) = FrameReader(), os.pipe()
        os.write(sink, pack(1, bytes(size))[:60])
        os.close(sink)
        assert reader.receive(source) == []
        with pytest.raises(EOFError):
            reader.receive(source)
        os.close(source)


def read_for_ever(reader: FrameReader, fd: int) -> None:
    while True:
        reader.receive(fd)


def length_of(body: bytes) -> bytes:
    return len(body).to_bytes(8, "little") + body


GARBAGE: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"this is no frame at all, and long enough",
    "an impossible length": lambda: b"\xff" * 40,
    "a length beyond all memory": lambda: (1 << 60).to_bytes(8, "little") + b"x",
    "no body": lambda: bytes(8),
    "a body that is no marshal": lambda: length_of(b"\xf5abc"),
    "a body that is cut": lambda: length_of(pack(1, "abc")[8:-1]),
    "a number": lambda: length_of(wire.dumps(5)),
    "an empty tuple": lambda: length_of(wire.dumps(())),
    "a large body of nothing": lambda: length_of(b"\xf5" * BIG),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_not_ours_is_a_value_error(kind: str) -> None:
    source, sink = os.pipe()
    reader, data = FrameReader(), GARBAGE[kind]()

    def write() -> None:
        write_all(sink, data)
        os.close(sink)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(ValueError, match=r"."):
            read_for_ever(reader, source)
    finally:
        writer.join(10)
        os.close(source)
