"""vLLM's queues in shared memory wait by spinning on ``os.sched_yield()``.

On recent kernels that starves every other process of the same core, for up to 10 s, and a harness on a machine with two
cores is such a process. Sleeping for 50 µs instead brings their lag back to milliseconds.
"""  # noqa: INP001 - a folder on PYTHONPATH is no package

import os
import time


def install() -> None:
    """From now on in this process, yielding is sleeping."""
    os.sched_yield = lambda: time.sleep(5e-5)
