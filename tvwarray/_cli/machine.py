"""What a figure was measured on: processor, threads, libraries."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scipy

from tvwarray._errors import BackendError
from tvwarray._install import __version__
from tvwarray._kernels.cpu.threads import limit_threads, usable_cpus
from tvwarray._machine import blas, blas_threads, processor


def machine() -> dict[str, str]:
    """Return processor, CPUs, threads and versions, each in a few words."""
    return {
        "processor": processor(),
        "cpus": str(usable_cpus()),
        "threads": blas_threads(),
        "python": platform.python_version(),
        "tvwarray": __version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": blas(),
    }


def machine_line() -> str:
    """Return `machine` as a sentence, which stands above every table of figures."""
    m = machine()
    return (
        f"{m['processor']}, {m['cpus']} CPUs, BLAS threads: {m['threads']};\n"
        f"tvwarray {m['tvwarray']}, NumPy {m['numpy']} ({m['blas']}), SciPy {m['scipy']}"
    )


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let BLAS and tvwarray use so many threads inside the block; None changes nothing.

    Raises
    ------
    BackendError
        If threadpoolctl is missing, by which alone a BLAS that is loaded can be limited.
    """
    if count is None:
        yield
        return
    if count < 1:
        raise ValueError(f"--threads is {count}; it is 1 or more.")
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as e:
        raise BackendError('--threads needs threadpoolctl: pip install "tvwarray[bench]".') from e
    with threadpool_limits(count), limit_threads(count):
        yield
