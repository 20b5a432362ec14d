"""What this machine is: processor, GPUs, threads, versions; nothing optional is imported for it."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np


def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Return the name of the processor, as far as the system tells."""
    name = _value_of("model name", Path(cpuinfo))
    return name or platform.processor() or platform.machine() or "unknown"


def gpus(folder: str = "/proc/driver/nvidia/gpus") -> list[str]:
    """Return the names of the NVIDIA GPUs that the driver lists; empty where it lists none.

    No context is made on any of them, which would take memory and some tenths of a second.
    """
    found = sorted(Path(folder).glob("*/information"))
    return [_value_of("Model", path) or "unknown" for path in found]


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


def _value_of(key: str, path: Path) -> str:
    """Return the first value of a key in a file of lines ``key : value``, or an empty text."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return " ".join(value.split())
    return ""
