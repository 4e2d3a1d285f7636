"""Every workload, by name, in the order of the table."""

from benchmarks import calls, jobs, lifecycle, payloads, threads

WORKLOADS = (
    *calls.WORKLOADS,
    *payloads.WORKLOADS,
    *lifecycle.WORKLOADS,
    *threads.WORKLOADS,
    *jobs.WORKLOADS,
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
