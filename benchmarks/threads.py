"""The thread backend beside `ThreadPoolExecutor`."""

from benchmarks._workload import Row, Workload
from benchmarks.calls import latency, submit

WORKLOADS = (
    Workload(
        "thread-submit",
        "20k no-ops on threads, one by one and gathered, per call",
        "us",
        submit,
        (Row("", "unirun-thread", "tpe", 5),),
        sizes={"calls": 20_000, "warm": 1000},
        quick={"calls": 200, "warm": 10},
        brief={"calls": 10_000},
    ),
    Workload(
        "thread-latency",
        "one call at a time on a thread, submit to result",
        "us",
        latency,
        (Row("", "unirun-thread", "tpe", 1.3),),
        sizes={"calls": 5000, "warm": 200},
        quick={"calls": 50, "warm": 5},
    ),
)
