"""How many threads numerical libraries may start in a worker: BLAS, OpenMP and their like.

Each of them takes all cores, in every worker anew: eight workers on eight cores would be 64 threads
that take turns.  So a worker process is given its share of the cores::

    workers x threads <= cores

1. Libraries read their number from the environment when they are loaded, so that is set before: in
   a worker ahead of its initializer and its first call, in the zygote ahead of what it preloads.
2. What is in memory before, since a worker was forked from there, is asked to use fewer.
3. What the user has said in the environment stays, and holds in the workers as well; a number in
   `blas_threads` says more than that, None leaves it all alone.
4. In threads of this process the number is the program's business.  Only where a library keeps it
   for each thread apart, as OpenMP does, the threads that compute get their share.

Light by rule: workers import it, though only where there is something to be asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["VARIABLES", "lower_loaded", "prepare", "share_in_thread", "told", "variables"]

_OPENMP = "OMP_NUM_THREADS"
_FOLLOW_OPENMP = (
    *("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
"""Where these are not set, their libraries look at that of OpenMP."""
VARIABLES = (_OPENMP, *_FOLLOW_OPENMP, "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")


def variables(
    setting: int | str | None, workers: int, cores: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """What is to be in the environment of a worker; rule 3."""
    if setting is None:
        return {}
    if not isinstance(setting, str):
        return dict.fromkeys(VARIABLES, str(setting))
    most = max(1, cores // workers)
    said = {name: environ[name] for name in VARIABLES if environ.get(name)}
    follow = _FOLLOW_OPENMP if _OPENMP in said else ()
    return {name: str(most) for name in VARIABLES if name not in follow} | said


def told(said: Mapping[str, str]) -> int | None:
    """How many threads that leaves to OpenMP, and so to most; None: as many as it likes."""
    text = said.get(_OPENMP, "").partition(",")[0].strip()  # of nested loops, the outermost
    return int(text) if text.isdecimal() else None


# -- what is loaded already -----------------------------------------------------------------------

# By a part of the file's name: whose variable it obeys, and what it is asked and told by.
_LIBRARIES = (
    ("openblas", "OPENBLAS_NUM_THREADS", "openblas_get_num_threads", "openblas_set_num_threads"),
    ("libmkl_rt", "MKL_NUM_THREADS", "MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("libblis", "BLIS_NUM_THREADS", "bli_thread_get_num_threads", "bli_thread_set_num_threads"),
    ("libgomp", _OPENMP, "omp_get_max_threads", "omp_set_num_threads"),
    ("libomp", _OPENMP, "omp_get_max_threads", "omp_set_num_threads"),
    ("libiomp", _OPENMP, "omp_get_max_threads", "omp_set_num_threads"),
)
# How builds of OpenBLAS name the same functions: those for numpy and scipy, or for 64-bit integers.
_PREFIXES = ("", "scipy_")
_SUFFIXES = ("", "64_", "_64")


def prepare() -> None:
    """Before a fork after which `lower_loaded` is called: nothing is to be imported then."""
    import ctypes  # noqa: F401


def lower_loaded(said: Mapping[str, str], only: str | None = None) -> None:
    """Have the libraries in memory use no more threads than `said` allows; rule 2.

    Those that use fewer go on so.  Where the system does not tell what is loaded, nothing is done.
    """
    for variable, get, tell in _loaded():
        text = said.get(variable) or said.get(_OPENMP, "")
        if only in (None, variable) and text.isdecimal() and get() > int(text):
            tell(int(text))


def share_in_thread(
    said: Mapping[str, str], initializer: Callable[..., object] | None, *args: Any
) -> None:
    """The initializer of a thread that computes: rule 4, then the user's own."""
    lower_loaded(said, only=_OPENMP)
    if initializer is not None:
        initializer(*args)


def _loaded() -> Iterator[tuple[str, Callable[[], int], Callable[[int], object]]]:
    """Of each library in memory: its variable, and how to ask and tell it its number."""
    for path in _mapped():
        file = os.path.basename(path)
        for part, variable, ask, tell in _LIBRARIES:
            if part not in file:
                continue
            found = _functions(path, ask, tell)
            if found is not None:
                yield variable, *found
            break


def _mapped() -> set[str]:
    """The files this process has in memory, as Linux tells."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return set()
    return {line[line.index("/") :] for line in lines if ".so" in line and "/" in line}


def _functions(
    path: str, ask: str, tell: str
) -> tuple[Callable[[], int], Callable[[int], object]] | None:
    import ctypes  # 5 ms, and only who has such a library needs it

    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:  # its file was replaced since: no name leads to it any more
        return None
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            get = getattr(library, prefix + ask + suffix, None)
            put = getattr(library, prefix + tell + suffix, None)
            if get is not None and put is not None:
                return get, put
    return None
