"""The promises of `unirun.testing`, asked of Ray: two nodes of one slot, each its own processes."""

from collections.abc import Iterator

import pytest
from ray_clusters import shared_cluster

from unirun import Executor
from unirun.testing import PATIENCE, BackendTests, Gate

pytest.importorskip("ray")
pytestmark = [pytest.mark.engines, pytest.mark.timeout(150)]


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """An executor that stays open keeps the process that talks to it."""
    with shared_cluster() as cluster, Executor(1, backend=cluster.name) as keeper:
        keeper.submit(divmod, 7, 2).result(60)
        TestRay.backend = cluster.name
        yield


class TestRay(BackendTests):
    backend = "ray"

    def test_a_deadline_ends_a_call_that_runs(self, executor: Executor, gate: Gate) -> None:
        """There is a worker already: for Ray to start one may take longer than this deadline."""
        executor.submit(divmod, 7, 2).result(PATIENCE)
        super().test_a_deadline_ends_a_call_that_runs(executor, gate)

    def test_what_a_call_prints_is_kept_or_refused(
        self, executor: Executor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With an executor of its own: one that tests share may start a thread for it only here."""
        super().test_what_a_call_prints_is_kept_or_refused(executor, capsys)
