"""The promises of `unirun.testing`, asked of Dask: a scheduler and two workers, each a process."""

from collections.abc import Iterator

import pytest
from dask_clusters import Cluster

from unirun import Executor
from unirun.testing import BackendTests

pytest.importorskip("distributed")
pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """One for all; an executor that stays open keeps the process that talks to it."""
    with Cluster("", "") as cluster, Executor(1, backend=cluster.name) as keeper:
        keeper.submit(divmod, 7, 2).result(60)
        TestDask.backend = cluster.name
        yield cluster


class TestDask(BackendTests):
    backend = "dask"
