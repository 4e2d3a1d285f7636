"""A process that is forked while threads of its parent hold locks needs none of these locks.

OpenSSL's digests take a lock of the process: a child that was forked while a thread of the parent
was inside its first one waited for ever in the same function, before it had said a word to the
manager (1 of 100 runs of tests/apps/shared_stress.py on a busy machine).
"""

import pytest
from apps.which_modules import openssl_after_using

from unirun import Executor


@pytest.mark.scenario("fork: locks of C libraries", "nothing that a new process says needs OpenSSL")
def test_a_process_gets_to_know_its_manager_without_openssl() -> None:
    with Executor(1, backend="process") as executor:
        assert executor.submit(openssl_after_using, executor.Lock()).result() == []
