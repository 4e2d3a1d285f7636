"""The tests of test_locks.py once more, with the manager in a process of its own."""

import pytest
from in_a_process import manager, mapping  # noqa: F401
from test_locks import *  # noqa: F403

pytestmark = pytest.mark.again
