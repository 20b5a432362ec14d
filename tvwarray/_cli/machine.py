"""What a figure was measured on: processor, threads, libraries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from tvwarray._errors import BackendError
from tvwarray._install import __version__
from tvwarray._kernels.cpu.threads import limit_threads


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


def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Return the name of the processor, as far as the system tells."""
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown processor"


def usable_cpus() -> int:
    """Return how many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def blas() -> str:
    """Return name and version of the BLAS that NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    found = config.get("Build Dependencies", {}).get("blas", {})
    return f"{found.get('name', 'unknown BLAS')} {found.get('version', '')}".strip()


def blas_threads() -> str:
    """Return how many threads the loaded BLAS uses, if threadpoolctl is there to ask."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown (install threadpoolctl to see)"
    counts = {str(p["num_threads"]) for p in threadpool_info() if p["user_api"] == "blas"}
    return "/".join(sorted(counts)) or "unknown"


def version_of(package: str) -> str:
    """Return the version of an installed package without importing it, or ``"not installed"``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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
