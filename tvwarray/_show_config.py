"""`show_config`: versions, processor, backends - what an issue report should begin with."""

from __future__ import annotations

import os
import platform
from typing import Final, Literal, overload

import numpy as np

from tvwarray._backends.protocol import Backend
from tvwarray._dtypes import FLOAT16, FLOAT32
from tvwarray._install import __version__
from tvwarray._kernels.cpu.threads import get_num_threads, usable_cpus
from tvwarray._machine import blas, blas_threads, gpus, processor, version_of
from tvwarray._matmul import BACKENDS
from tvwarray._matrix import TVWMatrix
from tvwarray._native import native, why_not_native

Config = dict[str, dict[str, str]]

_REQUIRED: Final = ("numpy", "scipy", "ml_dtypes", "array-api-compat")
_OPTIONAL: Final = (
    "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "tensorflow", "dask", "safetensors", "tqdm",
    "threadpoolctl", "matplotlib",
)  # fmt: skip
_BACKENDS: Final = ("cuda", "cpu", "array")
_VARIABLES: Final = (
    "TVWARRAY_NUM_THREADS", "TVWARRAY_NATIVE", "TVWARRAY_CACHE_DIR", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
_INSTRUCTION_SETS: Final = {
    "amx": "x86-64-v4 (AVX-512), 8-bit integers and bfloat16 by AMX",
    "vnni": "x86-64-v4 (AVX-512), int8 by VNNI",
    "v4": "x86-64-v4 (AVX-512)",
    "v3": "x86-64-v3 (AVX2)",
}


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...


@overload
def show_config(mode: Literal["dicts"]) -> Config: ...


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> Config | None:
    """Show what tvwarray found: versions, processor, GPUs, threads, and what each backend says.

    ``tvwarray env`` prints the same; an issue report should begin with it. CuPy, PyTorch, JAX and
    TensorFlow are named with their versions and not imported.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Print it, or return it.

    Returns
    -------
    dict of str to dict of str to str, or None
        With ``mode="dicts"`` the sections ``"versions"``, ``"processor"`` and ``"backends"``, names
        to text; None if it was printed.

    Raises
    ------
    ValueError
        If `mode` is neither.

    See Also
    --------
    select_backend : What runs a certain product, and why.

    Examples
    --------
    >>> import tvwarray
    >>> config = tvwarray.show_config(mode="dicts")
    >>> list(config)
    ['versions', 'processor', 'backends']
    >>> config["backends"]["array"]
    'runs float32 NumPy arrays'
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f'mode is {mode!r}; it is "stdout" or "dicts".')
    found = {"versions": _versions(), "processor": _processor(), "backends": backends()}
    if mode == "dicts":
        return found
    for title, entries in found.items():
        width = max(map(len, entries))
        print(f"{title}:")
        for name, value in entries.items():
            print(f"  {name.ljust(width)}  {value}")
    return None


def _versions() -> dict[str, str]:
    return {
        "tvwarray": __version__,
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
        "GPUs": ", ".join(gpus()) or "none found",
        "BLAS threads": blas_threads(),
        "tvwarray threads": str(get_num_threads()),
        **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def backends() -> dict[str, str]:
    """Return what each backend says to a small product of NumPy arrays, and of the extension."""
    registered = {b.name: b for b in BACKENDS}
    names = [*_BACKENDS, *(n for n in registered if n not in _BACKENDS)]
    answers = {n: _answer(registered[n]) if n in registered else "not installed" for n in names}
    return {**answers, "compiled extension": _extension()}


def _answer(backend: Backend) -> str:
    reasons = []
    for dtype in (FLOAT32, FLOAT16):
        A = TVWMatrix(np.eye(16, dtype=dtype))
        reason = backend.refusal(A.storage, np.ones((16, 1), dtype))
        if not reason:
            return f"runs {dtype.name} NumPy arrays"
        reasons.append(reason)
    return f"refuses NumPy arrays: {reasons[-1]}"


def _extension() -> str:
    compiled = native()
    if compiled is None:
        return f"not in use: {why_not_native()}"
    best = compiled.isa_names()[0]
    return f"in use: {_INSTRUCTION_SETS.get(best, f'the baseline of {platform.machine()}')}"
