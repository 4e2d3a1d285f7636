"""Arrays that look at the memory itself: how long, and in which processes."""

import gc
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from process.ends import MIB, Ends, array, forked, makers
from process.line import Line
from process.watch import until

from unirun._payload import encode, is_reference
from unirun.backends.process.system import make_memory


@pytest.fixture
def ends() -> Iterator[Callable[..., Ends]]:
    yield from makers()


# -- arrays look at the memory itself -------------------------------------------------------------


def test_an_array_is_not_copied_out(ends: Callable[..., Ends]) -> None:
    both = ends()
    found = both.send(array())
    found[3] = 12345
    with mmap.mmap(both.fd, MIB) as memory:
        assert 12345 in np.frombuffer(memory[:MIB], np.int64)


def test_an_array_that_was_asked_to_be_copied_leaves_nothing_behind(
    ends: Callable[..., Ends],
) -> None:
    both = ends(arrays="copy")
    found = both.send(array())
    assert both.blocks() == 0
    found[:] = 1  # it is writable
    both.send(np.zeros(MIB // 8, np.int64))
    assert (found == 1).all()


def test_an_array_can_be_written_to_unless_it_could_not_before(ends: Callable[..., Ends]) -> None:
    both = ends()
    frozen = array()
    frozen.setflags(write=False)
    first, second = both.send([array(), frozen])
    assert first.flags.writeable
    assert not second.flags.writeable


@pytest.mark.parametrize(
    "part",
    [
        lambda found: found,
        lambda found: found[5:7],
        lambda found: found.reshape(2, -1).T,
        memoryview,
        lambda found: memoryview(found)[3:],
        lambda found: np.frombuffer(found, np.uint8),
        lambda found: found.view(np.float64)[:1],
    ],
)
def test_a_block_is_taken_while_anything_looks_at_it(
    part: Callable[[Any], Any], ends: Callable[..., Ends]
) -> None:
    both = ends()
    kept = part(both.send(array()))
    before = bytes(kept)
    for _ in range(3):
        assert both.blocks() == 1
        both.send(np.ones(MIB // 8))
    assert bytes(kept) == before
    del kept
    assert both.blocks() == 0


def test_of_two_arrays_in_one_message_each_keeps_the_block(ends: Callable[..., Ends]) -> None:
    both = ends()
    first, second = both.send([array(), array()])
    del first
    assert both.blocks() == 1
    np.testing.assert_equal(second, array())
    del second
    assert both.blocks() == 0


def test_an_object_that_cannot_be_rebuilt_does_not_keep_its_block(
    ends: Callable[..., Ends],
) -> None:
    both = ends()
    for large in (array(), b"x" * MIB):
        reference = both.put([large, Unreadable()])
        with pytest.raises(ValueError, match="never again"):
            both.receive(reference)
        gc.collect()
        assert both.blocks() == 0


class Unreadable:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise ValueError("never again")


def test_a_parcel_frees_its_block_with_its_last_holder(ends: Callable[..., Ends]) -> None:
    both = ends()
    parcel = encode(array(), store=both.arena.pack)
    held = [parcel]
    del parcel
    assert both.arena.used()[0] == 1
    held.clear()
    assert both.arena.used() == (0, 0)


# -- other processes ------------------------------------------------------------------------------


def test_what_a_forked_child_writes_is_its_own(
    ends: Callable[..., Ends], line: Callable[[], Line]
) -> None:
    both, done = ends(), line()
    found = both.send(array())

    def overwrite() -> None:
        both.reader.abandon()
        found[:] = 0
        done.send()

    with forked(overwrite):
        done.wait()
        np.testing.assert_equal(found, array())


def test_a_forked_child_still_sees_what_its_parent_has_dropped(
    ends: Callable[..., Ends], line: Callable[[], Line]
) -> None:
    both, go_on = ends(), line()
    kept = [both.send(array())]

    def look_later() -> None:
        both.reader.abandon()
        go_on.wait()
        np.testing.assert_equal(kept[0], array())

    with forked(look_later):
        kept.clear()
        assert both.blocks() == 1
        for _ in range(3):
            both.send(np.zeros(MIB // 8))
        go_on.send()
    until(lambda: both.blocks() == 0, "the block is free once the child is gone")


def test_a_forked_child_gives_nothing_back(ends: Callable[..., Ends]) -> None:
    both = ends()
    found = both.send(array())

    def drop() -> None:
        nonlocal found
        both.reader.abandon()
        del found
        assert both.reader.collect() == []

    with forked(drop):
        pass
    np.testing.assert_equal(found, array())


def test_a_child_that_was_forked_before_the_array_came_keeps_no_block(
    ends: Callable[..., Ends], line: Callable[[], Line]
) -> None:
    both, go_on = ends(), line()
    both.send(array())
    with forked(go_on.wait):
        both.send(array())
        assert both.blocks() == 0
        go_on.send()


def test_a_forked_child_writes_nothing_into_the_arena(ends: Callable[..., Ends]) -> None:
    both = ends()
    found = both.send(array())

    def write() -> None:
        assert not is_reference(encode(array(), store=both.arena.store))

    with forked(write):
        pass
    np.testing.assert_equal(found, array())


def test_a_killed_process_leaves_no_file(line: Callable[[], Line]) -> None:
    told, before = line(), set(os.listdir("/dev/shm"))  # noqa: PTH208

    def hold() -> None:
        both = Ends(make_memory(0))
        kept = [both.send(array()) for _ in range(20)]
        told.send(len(kept))
        os.kill(os.getpid(), signal.SIGKILL)

    with forked(hold, ends_by=signal.SIGKILL):
        assert told.wait() == "20"
    assert set(os.listdir("/dev/shm")) <= before  # noqa: PTH208
