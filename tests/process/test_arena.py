"""Large objects outside the pipes: which blocks are taken, what comes out, what is refused."""

import gc
import mmap
import os
import pickle
import resource
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from process.ends import MIB, Ends, array, makers
from process.watch import run

from unirun import SerializationError
from unirun._payload import LARGE, encode, is_reference
from unirun.backends.process import buffers
from unirun.backends.process.arena import Blocks, block_size
from unirun.backends.process.buffers import Reader


@pytest.fixture
def ends() -> Iterator[Callable[..., Ends]]:
    yield from makers()


# -- which blocks are taken -----------------------------------------------------------------------

SIZES = st.integers(1, 1 << 20) | st.sampled_from([1, 1 << 16, (1 << 16) + 1, 1 << 27])


class BlocksNeverOverlap(RuleBasedStateMachine):
    """Whatever is taken, freed and cooled in whatever order."""

    LIMIT, KEEP = 1 << 29, 1 << 18

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(self.LIMIT, self.KEEP)
        self.taken: dict[int, int] = {}
        self.cooling: list[tuple[int, int]] = []

    @rule(size=SIZES)
    def take(self, size: int) -> None:
        offset = self.blocks.take(size)
        fits = sum(self.taken.values()) + size <= self.LIMIT
        assert (offset is not None) == fits
        if offset is None:
            return
        length = block_size(size)
        assert offset % length == 0
        others = [*self.taken.items(), *self.cooling]
        assert all(offset >= at + block_size(n) or at >= offset + length for at, n in others)
        self.taken[offset] = size

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.taken)))
        del self.taken[offset]
        self.blocks.free(offset)

    @rule()
    def give_back(self) -> None:
        surplus = self.blocks.surplus()
        assert (surplus is None) == (self.blocks.kept <= self.KEEP and not surplus)
        if surplus is not None:
            assert surplus[0] not in self.taken
            self.cooling.append(surplus)

    @precondition(lambda self: self.cooling)
    @rule()
    def cool(self) -> None:
        self.blocks.cooled(*self.cooling.pop())

    @invariant()
    def what_is_taken_is_counted(self) -> None:
        assert len(self.blocks) == len(self.taken)
        assert self.blocks.used == sum(self.taken.values())
        assert self.blocks.kept >= 0


test_blocks_never_overlap = BlocksNeverOverlap.TestCase


def test_a_block_that_was_used_before_is_taken_first() -> None:
    blocks = Blocks()
    first, second = blocks.take(100_000), blocks.take(100_000)
    assert first is not None
    blocks.free(first)
    assert blocks.take(120_000) == first
    assert blocks.take(100_000) not in (first, second)


# -- what comes out -------------------------------------------------------------------------------

VALUES = {
    "bytes": b"\0\x01" * MIB,
    "bytearray": bytearray(b"x" * MIB),
    "text": "\N{SNOWMAN}" * MIB,
    "nested": {"a": [b"y" * MIB, "z" * LARGE], "b": (1, bytearray(LARGE))},
    "many small": list(range(100_000)),
    "array": array(),
    "fortran": np.asfortranarray(np.ones((300, 500))),
    "records": np.zeros(50_000, dtype=[("a", "i4"), ("b", "f8")]),
    "strided": array()[::3],
    "two arrays": [array(), np.float32(3), np.ones(LARGE), np.ones(3)],
    "array and bytes": (array(), b"x" * MIB),
}


@pytest.mark.parametrize("arrays", ["view", "copy"])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_it_comes_back_as_it_was(value: object, arrays: str, ends: Callable[..., Ends]) -> None:
    both = ends(arrays=arrays)
    for _ in range(2):  # the second time in memory that was used before
        found = both.send(value)
        np.testing.assert_equal(found, value)
        assert type(found) is type(value)
        del found
        gc.collect()
        assert both.blocks() == 0


def test_a_small_object_is_a_plain_pickle() -> None:
    for value in ([1, "a"], np.ones(100), b"x" * 1000):
        data = encode(value, store=lambda *_: pytest.fail("it was offered to the store"))
        np.testing.assert_equal(pickle.loads(data), value)


def test_what_the_store_refuses_is_a_plain_pickle() -> None:
    for value in (array(), b"x" * MIB, list(range(100_000))):
        np.testing.assert_equal(pickle.loads(encode(value, store=lambda *_: None)), value)


@pytest.mark.parametrize("value", [array(), b"x" * MIB], ids=["array", "bytes"])
def test_what_cannot_be_pickled_is_named_as_in_a_small_object(value: object) -> None:
    culprit = [value, {"key": threading.Lock()}]
    with pytest.raises(SerializationError, match=r"^the call cannot .* at args\[1\]\['key'\]: "):
        encode((culprit, {}), "the call", ("args", "kwargs"), store=lambda *_: None)


def test_a_function_beside_large_objects_travels_by_value(ends: Callable[..., Ends]) -> None:
    base = 40
    for large in (array(), b"x" * MIB):
        add, found = ends().send((lambda x: x + base, large))
        assert add(2) == 42
        np.testing.assert_equal(found, large)


def test_it_is_a_snapshot(ends: Callable[..., Ends]) -> None:
    both = ends()
    value = [array(), bytearray(MIB)]
    reference = both.put(value)
    value[0][:] = 0
    value[1][:] = b"x" * MIB
    found = both.receive(reference)
    np.testing.assert_equal(found, [array(), bytearray(MIB)])


def test_a_bytearray_that_changes_while_it_is_pickled_is_not_torn(
    ends: Callable[..., Ends],
) -> None:
    """What comes after it in the pickle may shrink it."""
    value = bytearray(b"x" * MIB)

    class Shrinks:
        def __reduce__(self) -> Any:
            value.clear()
            return bytes, ()

    found = ends().send([array(), value, Shrinks(), b"z" * MIB])
    assert found[1] == b"x" * MIB
    assert found[3] == b"z" * MIB


LARGE_ONES = {"array": array(), "bytes": b"x" * MIB, "many": list(range(50_000))}


@pytest.mark.parametrize("large", LARGE_ONES.values(), ids=LARGE_ONES)
def test_a_class_of_the_program_beside_large_objects_travels_by_value(
    large: object, ends: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    both, program = ends(), types.ModuleType("__main__")
    exec("class Thing:\n    answer = 42\n", program.__dict__)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", program)
        reference = both.put([program.Thing(), large])
    thing, found = both.receive(reference)
    assert thing.answer == 42
    np.testing.assert_equal(found, large)


@pytest.mark.scenario(32, "and comes back from one")
def test_more_than_two_gib_come_through(ends: Callable[..., Ends]) -> None:
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if pages < 8 << 30:
        pytest.skip("needs 8 GiB of free memory")
    value = np.zeros((2 << 30) + MIB, np.uint8)
    value[-1] = 7
    found = ends().send(value)
    assert (len(found), found[0], found[-1]) == (len(value), 0, 7)


# -- memory comes back ----------------------------------------------------------------------------


def test_free_blocks_keep_no_more_memory_than_allowed(ends: Callable[..., Ends]) -> None:
    both = ends(keep=2 * MIB)
    for _ in range(3):
        references = [both.put(b"x" * MIB) for _ in range(8)]
        assert both.memory() >= 8 * MIB
        for reference in references:
            assert both.receive(reference) == b"x" * MIB
        assert both.blocks() == 0
        assert both.memory() <= 2 * MIB


def test_memory_is_used_again(ends: Callable[..., Ends]) -> None:
    both = ends()
    for size in (MIB, MIB - 1, MIB // 2 + 1000) * 20:
        both.send(np.ones(size, np.uint8))
        assert both.blocks() == 0
    assert both.memory() <= MIB + 2 * mmap.PAGESIZE


def test_a_writer_that_is_far_behind_is_to_be_told(ends: Callable[..., Ends]) -> None:
    both = ends()
    told: list[int] = []
    both.reader = Reader(both.fd, on_pile=lambda: told.append(1))
    kept = [both.send(np.ones(12 * MIB, np.uint8)) for _ in range(3)]
    assert not told
    kept.clear()
    assert told == [1]


def test_arrays_outlive_their_writer_with_their_own_memory_only(ends: Callable[..., Ends]) -> None:
    both = ends()
    dropped, kept, last = (both.send(array()) for _ in range(3))
    del dropped
    both.reader.close()
    both.arena.close()
    assert MIB * 2 <= both.memory() <= MIB * 2 + 4 * mmap.PAGESIZE
    np.testing.assert_equal(kept, array())
    kept[:] = 0
    del kept
    assert both.memory() <= MIB + 2 * mmap.PAGESIZE
    np.testing.assert_equal(last, array())
    del last
    assert not buffers._lingering


def test_only_so_many_dead_writers_are_kept_open(ends: Callable[..., Ends]) -> None:
    kept = []
    for _ in range(buffers.MAX_LINGERING + 3):
        both = ends()
        kept.append(both.send(array(LARGE * 2)))
        both.reader.close()
    assert len(buffers._lingering) == buffers.MAX_LINGERING
    assert all((each == array(LARGE * 2)).all() for each in kept)
    kept.clear()
    assert not buffers._lingering


def test_two_hundred_exchanges_leave_nothing_behind(ends: Callable[..., Ends]) -> None:
    both = ends()

    def figures() -> tuple[int, int, int]:
        maps = Path("/proc/self/maps").read_text().count("unirun")
        return len(os.listdir("/proc/self/fd")), maps, both.blocks()  # noqa: PTH208

    both.send([array(), b"x" * MIB])
    before = figures()
    for index in range(200):
        both.send([array(LARGE << index % 3), b"x" * LARGE * 3])
    assert figures() == before


# -- where it cannot be had -----------------------------------------------------------------------


def test_an_arena_that_is_full_refuses(ends: Callable[..., Ends]) -> None:
    both = ends(limit=3 * MIB)
    kept = [both.send(np.ones(MIB, np.uint8)) for _ in range(3)]
    assert not is_reference(encode(array(), store=both.arena.store))
    kept.pop()
    assert both.blocks() == 2
    both.send(array())


def test_a_block_that_could_not_be_written_is_free(
    ends: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ends()
    refused = [OSError("no address space"), None]

    def window(*_: object) -> Any:
        raise refused.pop(0) or KeyboardInterrupt

    monkeypatch.setattr(both.arena._memory, "window", window)
    assert not is_reference(encode(array(), store=both.arena.store))
    with pytest.raises(KeyboardInterrupt):
        encode(array(), store=both.arena.store)
    assert both.arena.used() == (0, 0)


def test_a_buffer_in_pieces_is_refused_by_name(ends: Callable[..., Ends]) -> None:
    class Strided:
        def __reduce_ex__(self, protocol: Any) -> Any:
            return bytes, (pickle.PickleBuffer(memoryview(bytes(MIB))[::2]),)

    with pytest.raises(SerializationError, match="non-contiguous"):
        encode(Strided(), store=ends().arena.store)


def test_an_arena_that_is_closed_refuses(ends: Callable[..., Ends]) -> None:
    both = ends()
    both.arena.close()
    assert not is_reference(encode(array(), store=both.arena.store))


def test_a_limit_on_the_size_of_files_makes_it_refuse(ends: Callable[..., Ends]) -> None:
    both = ends()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        data = encode(array(), store=both.arena.store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    np.testing.assert_equal(pickle.loads(data), array())


def test_without_address_space_it_refuses_and_its_reader_copies(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import os, resource
        import numpy as np
        from unirun._payload import encode, is_reference
        from unirun.backends.process.arena import Arena
        from unirun.backends.process.buffers import Reader
        from unirun.backends.process.system import make_memory

        fd = make_memory(0)
        value = np.arange(1 << 20)
        written = encode(value, store=Arena(fd).store)
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
        reader = Reader(fd)
        found = reader.load(written)
        print((found == value).all(), found.flags.writeable, len(reader.collect()), reader.leases)
        print(is_reference(encode(value, store=Arena(fd).store)))
        """,
    )
    assert done.stdout.split() == ["True", "True", "1", "0", "False"], done.stderr


def test_a_file_does_where_there_is_no_memory_without_a_name(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import os
        import numpy as np
        from unirun._payload import encode, is_reference
        from unirun.backends.process.arena import Arena
        from unirun.backends.process.buffers import Reader
        from unirun.backends.process.system import make_memory

        fd = make_memory(0)
        print(os.readlink(f"/proc/self/fd/{fd}").endswith("(deleted)"))
        arena, reader, value = Arena(fd, keep=1 << 20), Reader(fd), np.arange(1 << 20)
        for _ in range(3):
            data = encode([value, b"x" * 100_000], store=arena.store)
            found = reader.load(data)
            print(is_reference(data) and (found[0] == value).all() and found[1] == b"x" * 100_000)
            del found
            for offset in reader.collect():
                arena.free(offset)
        print(arena.used()[0], os.listdir())
        """,
        env={**os.environ, "UNIRUN_WITHOUT": "memfd", "TMPDIR": str(tmp_path)},
    )
    assert done.stdout.split() == ["True"] * 4 + ["0", "['program.py']"], done.stderr


# -- many threads ---------------------------------------------------------------------------------


def test_threads_may_store_and_free_at_once(ends: Callable[..., Ends]) -> None:
    both = ends(keep=MIB)
    parcels: list[Any] = []
    barrier = threading.Barrier(4)
    wrong: list[str] = []

    def work(number: int) -> None:
        reader = Reader(both.fd)
        barrier.wait(20)
        for turn in range(60):
            value = np.full(LARGE * (1 + turn % 4), number, np.uint8)
            parcel = encode(value, store=both.arena.pack)
            parcels.append(parcel)
            if not (reader.load(parcel) == number).all():
                wrong.append(f"thread {number}, turn {turn}")
            parcels.remove(parcel)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert both.arena.used() == (0, 0)


def test_a_finalizer_may_run_while_a_block_is_taken(ends: Callable[..., Ends]) -> None:
    """A block is given back, and a large object stored, from within the storing of another."""
    both = ends()

    class Stores:
        def __reduce__(self) -> Any:
            both.send(array())
            return bytes, ()

    kept = both.send([b"x" * MIB, Stores()])
    assert kept == [b"x" * MIB, b""]
    assert both.blocks() == 0


def test_a_lease_ends_with_the_array_in_a_cycle(ends: Callable[..., Ends]) -> None:
    both = ends()
    cycle: list[Any] = [both.send(array())]
    cycle.append(cycle)
    alive = weakref.ref(cycle[0])
    del cycle
    gc.collect()
    assert alive() is None
    assert both.blocks() == 0
