"""``tvwarray env``: what an issue report should begin with."""

from __future__ import annotations

import json
import os
import platform
from argparse import Namespace
from typing import Final

import numpy as np

import tvwarray
from tvwarray._cli.machine import blas, blas_threads, processor, usable_cpus, version_of
from tvwarray._dtypes import FLOAT16, FLOAT32
from tvwarray._matmul import BACKENDS, Backend
from tvwarray._matrix import TVWMatrix

_REQUIRED: Final = ("numpy", "scipy", "ml_dtypes", "array-api-compat")
_OPTIONAL: Final = (
    "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "tensorflow", "safetensors", "tqdm",
    "threadpoolctl",
)  # fmt: skip
_NAMES: Final = ("cuda", "cpu", "array")
_VARIABLES: Final = (
    "TVWARRAY_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


def run(args: Namespace) -> int:
    """Print versions, processor, threads and backends; nothing optional is imported for it."""
    sections = {"versions": _versions(), "processor": _processor(), "backends": backends()}
    if args.json:
        print(json.dumps(sections, indent=1))
    else:
        for title, entries in sections.items():
            _section(title, entries)
    return 0


def _versions() -> dict[str, str]:
    return {
        "tvwarray": tvwarray.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{name: version_of(name) for name in _REQUIRED},
        "BLAS of NumPy": blas(),
        **{name: version_of(name) for name in _OPTIONAL},
    }


def _processor() -> dict[str, str]:
    return {
        "name": processor(),
        "CPUs": f"{usable_cpus()} of {os.cpu_count()} usable",
        "BLAS threads": blas_threads(),
        **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def backends() -> dict[str, str]:
    """Return what each backend says to a small product of NumPy arrays."""
    registered = {b.name: b for b in BACKENDS}
    names = [*_NAMES, *(n for n in registered if n not in _NAMES)]
    answers = {n: _answer(registered[n]) if n in registered else "not installed" for n in names}
    extension = "in use" if answers["cpu"].startswith("runs") else "not in use"
    return {**answers, "compiled extension": extension}


def _answer(backend: Backend) -> str:
    reasons = []
    for dtype in (FLOAT32, FLOAT16):
        A = TVWMatrix(np.eye(16, dtype=dtype))
        reason = backend.refusal(A.storage, np.ones((16, 1), dtype))
        if not reason:
            return f"runs {dtype.name} NumPy arrays"
        reasons.append(reason)
    return f"refuses NumPy arrays: {reasons[-1]}"


def _section(title: str, lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    print(f"{title}:")
    for name, value in lines.items():
        print(f"  {name.ljust(width)}  {value}")
