"""The keywords of `configure()` and `config()`, for type checkers; nothing imports it at run time.

The table in `_settings` says the rest; a test compares the two.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

__all__ = ["Settings"]


class Settings(TypedDict, total=False):
    """Each setting, and what it may be given as."""

    max_workers: int | str | None
    blas_threads: int | str | None
    start_method: str | None
    grace: float | str
    idle_timeout: float | str | None
    preload: Iterable[str]
    ship: Iterable[str]
    max_tasks_per_child: int | None
    max_worker_rss: int | str | None
    thread_name_prefix: str
    max_pending: int | str | Iterable[int | str] | None
    when_full: str
    exit_grace: float | str
    dump: bool
    monitor: bool
    progress: str
    trace: str | None
    hang_warning: float | str | None
    call_sites: str
    output: str
    logs: bool
    manager: str
    backend: str | Mapping[str, Mapping[str, Any]] | None
    kind: str
    routes: Mapping[str, str] | str
    auto: str
    require: Iterable[str]
    timeout: float | str | None
    queue_timeout: float | str | None
    deadline: float | None
    retries: Any
    priority: int
    memory: int | str | None
    resources: Mapping[str, float | str]
    name: str | None
    capture: bool
    killable: bool
    seed: int | None
    seed_libraries: bool
    context: bool
