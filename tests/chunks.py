"""A map by itself: its calls are futures that a test ends by hand, as a backend would."""

from collections.abc import Callable, Iterable
from typing import Any

from unirun import ExecutorShutdown, Future, WorkerCrashed
from unirun._chunk import run_chunk
from unirun._context import TaskContext, Token, running
from unirun._cuts import Chunker
from unirun._map import MapResult
from unirun._record import SIZE, read

PATIENCE = 20.0


class Calls:
    """Takes the calls of a map; `run` ends them as a backend would."""

    def __init__(self) -> None:
        self.open: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...], Any]] = []
        self.sent = 0
        self.items: list[Any] = []  # in the order in which they were sent
        self.closed = False

    def submit(
        self, fn: Callable[..., Any], *args: Any, on_part: Any = None, first: int = 0
    ) -> Future[Any]:
        if self.closed:
            raise ExecutorShutdown("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        self.open.append((future, fn, args, on_part))
        self.sent += 1
        self.items += args[1][0] if fn is run_chunk else [args[0]]
        return future

    def run(self, which: int = 0) -> None:
        """Run the call that has waited longest, or another one."""
        future, fn, args, _ = self.open.pop(which)
        if future._begin():
            try:
                future._succeed(fn(*args))
            except BaseException as exc:
                future._fail(exc)

    def run_all(self) -> None:
        while self.open:
            self.run()

    def crash(self, after: int, which: int = 0) -> None:
        """End a chunk as a worker does that dies at one of its items."""
        future, _, (fn, columns), _ = self.open.pop(which)
        future._begin()
        memory = memoryview(bytearray(SIZE))
        run_in_worker(memory, fn, [column[:after] for column in columns])
        future.unsaid = lambda known: read(memory, 1, known)  # type: ignore[attr-defined]
        future._fail(WorkerCrashed("a chunk", 1, -9))


class Emitter:
    """What the context of a chunk has in a worker."""

    index = 1

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.parts: list[bytes] = []

    def __call__(self, part: bytes) -> None:
        self.parts.append(part)


def run_in_worker(memory: memoryview, fn: Any, columns: Iterable[Any]) -> tuple[Any, list[bytes]]:
    """What a chunk answers in a process, and the parts it has sent before."""
    emit = Emitter(memory)
    context = TaskContext(
        "a chunk", 1, kind="cpu", backend="process", worker="1", token=Token(), emit=emit
    )
    token = running.set(context)
    try:
        return run_chunk(fn, tuple(columns)), emit.parts
    finally:
        running.reset(token)


def mapped(
    calls: Calls,
    fn: Callable[..., Any],
    *iterables: Iterable[Any],
    size: int | None = 1,
    single: bool = False,
    window: int = 1 << 62,
    limit: int = 4,
    timeout: float | None = PATIENCE,
    ordered: bool = True,
    errors: str = "raise",
    progress: Any = None,
) -> MapResult:
    return MapResult(
        calls.submit,
        fn,
        iterables,
        chunker=Chunker(size, workers=2),
        single=single,
        window=window,
        calls=limit,
        timeout=timeout,
        ordered=ordered,
        errors=errors,
        progress=progress,
    )
