"""What not every system has: each behind one name here, with what does the same elsewhere.

    feature   with it                                    without it
    epoll     a selector that scales                     poll, or select where that is all there is
    pidfd     the end of a process is an event           a pipe ends, a child is waited for
    memfd     shared memory without a name               a file that has lost its name
    setsid    a worker leads a session of its own        it leads a process group of its own
    proc      parentage is read from /proc               psutil asks the system
    sigio     the kernel ends a worker with its parent   a thread of the worker waits for that
    cells     shared objects live in shared memory       their server is asked (see `_robust` there)

`UNIRUN_WITHOUT=pidfd,memfd` in the environment takes features away, from this process and from its
workers. It is there for tests: what runs on other systems is then run here.

Light by rule: every worker process imports this file.
"""

from __future__ import annotations

import os
import sys
from errno import ENOSYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import selectors

FEATURES = ("epoll", "pidfd", "memfd", "setsid", "proc", "sigio", "cells")


def _present() -> frozenset[str]:
    here = {"setsid"}
    if hasattr(os, "pidfd_open"):
        here.add("pidfd")
    if _has_memfd():
        here.add("memfd")
    if sys.platform == "linux":
        here |= {"epoll", "sigio"}
        if os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            here.add("proc")
    without = os.environ.get("UNIRUN_WITHOUT", "").replace(",", " ").split()
    if unknown := set(without).difference(FEATURES):
        from unirun._errors import ConfigError

        raise ConfigError(
            f"UNIRUN_WITHOUT: unknown feature {min(unknown)!r}; use some of {', '.join(FEATURES)}"
        )
    return frozenset(here.difference(without))


def _has_memfd() -> bool:
    """Whether the system has it, and lets us: a sandbox may refuse a call that it does not know."""
    if not hasattr(os, "memfd_create"):
        return False
    try:
        os.close(os.memfd_create("unirun"))
    except PermissionError:
        return False
    except OSError as exc:
        return exc.errno != ENOSYS  # out of descriptors, say: that it is there
    return True


HERE = _present()
"""The features there are; read once."""


def make_selector() -> selectors.BaseSelector:
    import selectors

    if "epoll" in HERE:
        return selectors.EpollSelector()
    if sys.platform != "linux" and hasattr(selectors, "KqueueSelector"):
        return selectors.KqueueSelector()
    return getattr(selectors, "PollSelector", selectors.SelectSelector)()


def make_memory(size: int) -> int:
    """A descriptor of `size` bytes of shared memory, all zero; the caller closes it.

    It has no name: the memory goes when the last process that has it is gone.
    """
    fd = os.memfd_create("unirun") if "memfd" in HERE else _make_nameless_file()
    try:
        os.ftruncate(fd, size)
        if has_disk_behind():
            write_at(fd, 0, bytes(size))
    except BaseException:
        os.close(fd)
        raise
    return fd


def has_disk_behind() -> bool:
    """Whether that memory is a file, whose disk may be full.

    Then each page has to be written by `write_at` before it is written through a mapping, which
    would find out too late: the process would die of SIGBUS.
    """
    return "memfd" not in HERE


def write_at(fd: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of it; raises OSError where there is no room."""
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)


def map_memory(fd: int, length: int, offset: int = 0) -> mmap.mmap:
    """A mapping that both sides see; raises OSError or ValueError if there is none to be had."""
    import mmap

    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, length, offset=offset, trackfd=False)
    # It keeps a copy of `fd`, which must not become the standard output of a program without one.
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while held[-1] <= 2:
            held.append(os.open(os.devnull, os.O_RDONLY))
        return mmap.mmap(fd, length, offset=offset)
    finally:
        for each in held:
            os.close(each)


def _make_nameless_file() -> int:
    import tempfile

    fd, path = tempfile.mkstemp(prefix="unirun-")
    os.unlink(path)
    return fd


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when our child ends; None where there is none to be had.

    The caller closes it.
    """
    if "pidfd" not in HERE:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # an older kernel than the Python was built for, or out of descriptors


def lead_group() -> None:
    """Become the leader of a process group, and of a session: one signal reaches all of ours."""
    try:
        if "setsid" in HERE:
            os.setsid()
        else:
            os.setpgid(0, 0)
    except PermissionError:
        return  # it is one already


def signals_of_a_worker() -> None:
    """Ctrl-C is for the program, and what that does about the others is no business of a task."""
    import _signal  # type: ignore[import-not-found]  # `signal` would cost an enum per worker

    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    # What a process ignores is ignored by who descends from it: no child of a task could be waited
    # for then, nor would the worker end when it is told to, or with its parent.
    for name in ("SIGTERM", "SIGCHLD", "SIGIO"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)  # a fork may have brought the parent's
    if hasattr(_signal, "pthread_sigmask"):
        _signal.pthread_sigmask(_signal.SIG_SETMASK, [])


def die_with(lifeline: int) -> None:
    """Have this process and its group end when nobody holds the other end of `lifeline` any more.

    The kernel sees to it, whatever they do (SIGIO, whose default is to terminate); elsewhere a
    thread does, as soon as it is let.
    """
    if "sigio" not in HERE or not _ask_for_a_signal(lifeline):
        from _thread import start_new_thread

        start_new_thread(_wait_for_the_end, (lifeline,))


def _ask_for_a_signal(lifeline: int) -> bool:
    import fcntl
    import select

    try:
        # Opened anew: whom to signal belongs to the opening, which all workers inherit.
        own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        return False  # no /proc, or nothing there that would signal
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):
        os._exit(1)  # the parent died before we asked to be told
    return True


def _wait_for_the_end(lifeline: int) -> None:
    os.read(lifeline, 1)  # nobody writes: it returns when the parent is gone
    if os.getpgrp() == os.getpid():
        os.killpg(0, 9)
    os._exit(1)
