"""joblib, and with it scikit-learn, on unirun: loops that can be killed and survive a crash.

    from unirun.integrations.joblib import register

    register()
    with joblib.parallel_config("unirun", n_jobs=4, timeout=60):
        GridSearchCV(...).fit(X, y)

    BatchedCalls ──> submit ──> view of an executor ──> future ──callback──> joblib
                       └─ large arrays ──> a shelf, from which workers map them

1. Calls run on the executor that is current, in as many workers at a time as `n_jobs` says; on one
   made for it where that has fewer, or where `inner_max_num_threads` is given.
2. A loop that fails, is left, or runs out of time kills what it still runs, and nothing else.
3. A `Parallel` inside a call submits to the same workers; one that prefers threads uses joblib's.

The parameters of `parallel_config` that joblib does not know come here: `executor`, an Executor or
a view of one, and the options of `Executor.options`.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
    register_parallel_backend,
)

from unirun._context import current_task
from unirun._executor import Executor, current_executor
from unirun._machine import cpu_count
from unirun._submitter import Submitter
from unirun.backend import describe
from unirun.integrations._arrays import Shelf

__all__ = ["UnirunBackend", "register"]


def register(name: str = "unirun", *, make_default: bool = False) -> None:
    """Make unirun known to joblib under that name.

    Args:
        name: what `Parallel(backend=...)` and `parallel_config(...)` call it.
        make_default: True: `Parallel` uses it where no backend is named.
    """
    register_parallel_backend(name, UnirunBackend, make_default=make_default)


class UnirunBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """A backend of joblib whose calls run on an executor of unirun.

    Args:
        nesting_level, inner_max_num_threads: as joblib gives them.
        executor: whose workers to use; None as said in the module. It is not shut down.
        options: of each call, as for `Executor.options`. With `timeout`, `retries`,
            `queue_timeout` or `memory`, which act on calls, batches have one item each.

    Raises:
        TypeError: there is no such option, or `executor` is none.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1
    # Handing over a batch costs a tenth of what it costs the processes these were measured with.
    MIN_IDEAL_BATCH_DURATION = 0.05
    MAX_IDEAL_BATCH_DURATION = 0.5

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        executor: Submitter | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if executor is not None and not isinstance(executor, Submitter):
            raise TypeError(f"executor= takes an Executor of unirun or a view of it: {executor!r}")
        if executor is not None and inner_max_num_threads is not None:
            raise TypeError(
                "inner_max_num_threads cannot be changed for an executor that exists; make that "
                f"one with blas_threads={inner_max_num_threads}"
            )
        self._given = executor
        self._options = options
        self._own: Executor | None = None  # rule 1; ends when it is dropped, with this backend
        self._base: Any = None  # a view with all options but the name, while configured
        self._views: dict[str, Any] = {}  # of that, by the name of what is called
        self._futures: set[Any] = set()  # submitted and not ended; each takes itself out
        self._shelf: Shelf | None = None  # ours to close, at the end of a loop
        self._view(self._given or current_executor())  # so that a wrong option is told now

    # -- before the loop ----------------------------------------------------------------------

    @property
    def supports_sharedmem(self) -> bool:
        """Whether calls run in this process, so that `require="sharedmem"` holds."""
        return self._place_of(self._given or current_executor()) in ("thread", "inline")

    uses_threads = supports_sharedmem

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at a time; -1 is as many as there are workers."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs if self._given is None else min(n_jobs, _size(self._given))
        workers = cpu_count() if self._given is None else _size(self._given)
        return max(workers + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **backend_kwargs: Any,
    ) -> int:
        """Called by joblib before a loop; returns how many calls will run at a time."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if prefer == "threads" and current_task() is not None:
            raise FallbackToBackend(ThreadingBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        submitter = self._submitter(n_jobs)
        self._base = self._view(submitter, None if _size(submitter) <= n_jobs else n_jobs)
        self._views = {}
        if self._place_of(submitter) == "process":
            mode = backend_kwargs.get("mmap_mode", "r")
            self._shelf = Shelf(backend_kwargs.get("max_nbytes"), mode)
        return n_jobs

    def _submitter(self, n_jobs: int) -> Submitter:
        if self._given is not None:
            return self._given
        threads = self.inner_max_num_threads
        if threads is None and _size(current_executor()) >= n_jobs:
            return current_executor()
        if self._own is None:
            how = {} if threads is None else {"blas_threads": threads}
            self._own = Executor(n_jobs, name="unirun-joblib", **how)
        elif _size(self._own) < n_jobs:
            self._own.resize(n_jobs)
        return self._own

    def _view(self, submitter: Submitter, limit: int | None = None) -> Any:
        """A kind that somebody has chosen is kept; nothing is measured of batches."""
        view = submitter.options(limit=limit, **self._options)
        return view.options(kind="cpu") if view.explain(run_batch).kind == "auto" else view

    def _place_of(self, submitter: Submitter) -> str:
        backend: str = self._view(submitter).explain(run_batch).backend
        return backend

    # -- the loop -----------------------------------------------------------------------------

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Any:
        """Called by joblib for each batch; also in the threads that call back."""
        name = describe(func.items[0][0])
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = self._base.options(name=name)
        if self._shelf is not None:
            func.items = [_placed(self._shelf, *item) for item in func.items]
        future = view.submit(run_batch, func)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        if current_task() is not None:
            # joblib looks at the results again and again; this lets the task that waits so take
            # part in the work, as it would if it waited for this future.
            concurrent.futures.wait([future], 0)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """The results of a batch that has ended."""
        return out.result()

    def compute_batch_size(self) -> int:
        """One where something acts on a single call, else as much as takes a while."""
        if not _OF_A_CALL.isdisjoint(self._options):
            return 1
        size: int = super().compute_batch_size()
        return size

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """For a `Parallel` inside a call: rule 3. Without `n_jobs` of its own it is no loop."""
        level = (self.nesting_level or 0) + 1
        if self._shelf is None:  # in this process: no more threads than joblib has by itself
            return ThreadingBackend(nesting_level=level), None
        return UnirunBackend(nesting_level=level), None

    # -- after the loop -----------------------------------------------------------------------

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Rule 2. The executor stays as it is, so it is ready in any case."""
        futures = list(self._futures)
        running = [each for each in futures if not each.cancel()]
        killed = [each for each in running if each._stop_for_good()]  # all before any is waited for
        concurrent.futures.wait(killed)

    def terminate(self) -> None:
        """Called by joblib when nothing is to come any more; workers stay for the next loop."""
        self._futures = set()
        shelf, self._shelf = self._shelf, None
        if shelf is not None:
            shelf.close()
        self.reset_batch_stats()

    def __reduce__(self) -> Any:
        """In a call: the one for loops in there, with the executor of that call."""
        return UnirunBackend, (self.nesting_level,)


_OF_A_CALL = {"timeout", "queue_timeout", "retries", "memory"}


def run_batch(batch: Callable[[], list[Any]]) -> list[Any]:
    """The body of a call."""
    return batch()


def _size(submitter: Any) -> int:
    size: int = submitter._max_workers
    return size


def _placed(shelf: Shelf, fn: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    placed = [shelf.place(each) for each in args]
    return fn, tuple(placed), {name: shelf.place(each) for name, each in kwargs.items()}
