"""Locks in shared memory that outlive their holders, and sleeping until a word changes.

The system's own: robust mutexes (when a thread dies holding one, the kernel hands it to the next,
who is told) and futexes. The C library and the kernel do everything; here are only the calls.

    trylock, unlock      0 or an error number; quick, so they are called without giving way
    lock                 waits, other threads go on meanwhile
    sleep, wake          until the word at an address changes from what it was, or is woken

Only on Linux; imported by nobody who has not asked `find` first.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["MUTEX_SIZE", "Robust", "find"]

MUTEX_SIZE = 64  # bytes there is room for; 40 on x86-64, 48 on ARM
_ATTRIBUTES_SIZE = 64
_SHARED = _ROBUST = 1  # PTHREAD_PROCESS_SHARED, PTHREAD_MUTEX_ROBUST: the same in glibc and musl
_ERRORCHECK = 2
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_FUTEX_CALLS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
_REALTIME = 0

EVERYBODY = (1 << 31) - 1

GOT = frozenset({0, errno.EOWNERDEAD})


class Robust:
    """The calls, bound to the C library of this process."""

    trylock: Callable[[int], int]
    unlock: Callable[[int], int]
    consistent: Callable[[int], int]

    def __init__(self, futex_call: int) -> None:
        import ctypes

        self._ctypes = ctypes
        libc, holding = ctypes.CDLL(None), ctypes.PyDLL(None)
        address = [ctypes.c_void_p]
        # A PyDLL does not let other threads run during the call: right for what does not wait,
        # and whoever is in a critical section must not give way in the middle of it.
        for name in ("trylock", "unlock", "consistent"):
            call = getattr(holding, f"pthread_mutex_{name}")
            call.argtypes = address
            setattr(self, name, call)
        self._init = libc.pthread_mutex_init
        self._init.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._timedlock = libc.pthread_mutex_timedlock
        self._timedlock.argtypes = [ctypes.c_void_p, ctypes.c_void_p]

        class Timespec(ctypes.Structure):
            _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

        self._timespec: Any = Timespec
        self._futex_call = futex_call
        self._wait, self._wake = libc.syscall, holding.syscall
        for call in (self._wait, self._wake):
            call.restype = ctypes.c_long
            call.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_long, ctypes.c_uint32]
            call.argtypes += [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
        self._attributes = self._make_attributes(libc)

    def _make_attributes(self, libc: Any) -> Any:
        attributes = self._ctypes.create_string_buffer(_ATTRIBUTES_SIZE)
        failed = (
            libc.pthread_mutexattr_init(attributes)
            or libc.pthread_mutexattr_setpshared(attributes, _SHARED)
            or libc.pthread_mutexattr_setrobust(attributes, _ROBUST)
            # So that whoever does not hold it cannot release it, and no thread waits for itself.
            or libc.pthread_mutexattr_settype(attributes, _ERRORCHECK)
        )
        if failed:
            raise OSError(failed, "this system has no robust mutexes")
        return attributes

    def address_of(self, memory: Any) -> tuple[int, Any]:
        """Where writable memory begins, and what keeps it there."""
        keeper = self._ctypes.c_char.from_buffer(memory)
        return self._ctypes.addressof(keeper), keeper

    def make_mutex(self, address: int) -> None:
        """Make one in MUTEX_SIZE bytes; it is never unmade, since somebody may be inside."""
        failed = self._init(address, self._ctypes.addressof(self._attributes))
        if failed:
            raise OSError(failed, "no mutex in shared memory")

    def lock(self, address: int, seconds: float) -> int:
        """Wait for a mutex, at most so long; 0, EOWNERDEAD or an error number."""
        end = time.clock_gettime(_REALTIME) + seconds
        when = self._timespec(int(end), int(end % 1.0 * 1e9))
        return int(self._timedlock(address, self._ctypes.addressof(when)))

    def sleep(self, address: int, expected: int, seconds: float) -> None:
        """Sleep while the 32 bits there are `expected`, at most so long; may wake for nothing."""
        when = self._timespec(int(seconds), int(seconds % 1.0 * 1e9))
        place = self._ctypes.addressof(when)
        self._wait(self._futex_call, address, _FUTEX_WAIT, expected, place, None, 0)

    def wake(self, address: int, number: int = EVERYBODY) -> int:
        """Wake those who sleep there; how many there were."""
        return int(self._wake(self._futex_call, address, _FUTEX_WAKE, number, None, None, 0))


_found: list[Robust | None] = []
# Held while `_found` is made, and by every fork: a child that inherited the import of ctypes half
# done, by a thread it has not, would wait for its end for ever.
_making = RLock()


def find() -> Robust | None:
    """What this system has of it, or None: then everything goes by the server.

    `UNIRUN_WITHOUT=cells` in the environment makes any system one that has nothing; for tests.
    """
    if "cells" in os.environ.get("UNIRUN_WITHOUT", "").replace(",", " ").split():
        return None
    if not _found:
        with _making:
            if not _found:
                _found.append(_make())
    return _found[0]


def _make() -> Robust | None:
    if sys.platform != "linux" or not hasattr(os, "memfd_create") or sys.maxsize < 1 << 32:
        return None
    call = _FUTEX_CALLS.get(os.uname().machine)
    if call is None:
        return None
    try:
        robust = Robust(call)
        return robust if _works(robust) else None
    except (ImportError, OSError, AttributeError):
        return None  # a Python without ctypes, a C library without these


def _works(robust: Robust) -> bool:
    """Whether a mutex of this system says what we rely on; it is not made for us alone."""
    memory = bytearray(2 * MUTEX_SIZE)
    start, _keeper = robust.address_of(memory)
    address = (start + MUTEX_SIZE - 1) // MUTEX_SIZE * MUTEX_SIZE
    robust.make_mutex(address)
    took, again = robust.trylock(address), robust.trylock(address)
    itself = robust.lock(address, 0.0)
    gave, twice = robust.unlock(address), robust.unlock(address)
    return (
        (took, gave, twice) == (0, 0, errno.EPERM)
        and again in (errno.EBUSY, errno.EDEADLK)
        and itself == errno.EDEADLK
        and not any(memory[address - start + 56 : address - start + MUTEX_SIZE])
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release
    )
