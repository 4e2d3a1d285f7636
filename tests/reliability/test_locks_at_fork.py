"""A process that is forked while threads of its parent hold locks needs none of these locks.

OpenSSL's digests take a lock of the process: a child that was forked while a thread of the parent
was inside its first one waited for ever in the same function, before it had said a word to the
manager (1 of 100 runs of tests/apps/shared_stress.py on a busy machine).
"""

import os
import subprocess
import sys

import pytest
from apps.which_modules import openssl_after_using

from unirun import Executor


@pytest.mark.scenario("fork: locks of C libraries", "nothing that a new process says needs OpenSSL")
def test_a_process_gets_to_know_its_manager_without_openssl() -> None:
    with Executor(1, backend="process") as executor:
        assert executor.submit(openssl_after_using, executor.Lock()).result() == []


# A thread is in the middle of the import as the main thread forks; the import goes on once the
# fork has begun.  Hooks of forks are called in reverse order: ours is the first.
AMID_AN_IMPORT = """
import os, signal, sys, threading
from unirun import _robust

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "ctypes":
            inside.set()
            go_on.wait()

inside, go_on = threading.Event(), threading.Event()
assert "ctypes" not in sys.modules
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=_robust.find)
thread.start()
inside.wait()
os.register_at_fork(before=go_on.set)
child = os.fork()
if not child:
    signal.alarm(10)
    _robust.find()
    os._exit(0)
thread.join()
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(sys.platform != "linux", reason="nothing is imported for that here")
@pytest.mark.scenario("fork: imports of other threads", "none of ours is half done in the child")
def test_a_fork_waits_until_a_thread_has_imported_what_locks_need() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AMID_AN_IMPORT],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")
