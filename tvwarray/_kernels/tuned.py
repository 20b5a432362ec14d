"""Measured times of kernels, kept on disk, that take precedence over the cost model's.

One file, ``tuned-1.json``, beside the compiled kernels::

    {"format": 1,
     "times": {"NVIDIA H200, tvwarray 0.1.0":                      the GPU and who measured
                 {"bfloat16 2:4 4096x4096, n 512, tiles 9f86d081":  the problem
                    {"sm80_tvw_gemm ... 128x128 ...": 1.9e-05}}}}   seconds of each kernel

Times of another GPU or version never apply. The file is read with suspicion: what is not of this
form is ignored, and written over by the next measurement.

Beside it there are times that come with the library, ``tuned_gpus.json``: of the same form, by GPU
alone, since they were measured with its own kernels (`asv_bench/gpu_tune.py`). What was measured on
the machine itself takes precedence over them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from functools import cache
from importlib import resources
from math import inf, isfinite
from pathlib import Path
from typing import Any, Final

from tvwarray._install import __version__
from tvwarray._kernels.compile import cache_folder
from tvwarray._kernels.cost import Problem
from tvwarray._kernels.devices import Device
from tvwarray._kernels.select import Choice, judged, variants

FILE: Final = "tuned-1.json"
SHIPPED: Final = "tuned_gpus.json"
MAX_BYTES: Final = 2**24
"""A larger file is not read."""

Times = dict[str, dict[str, dict[str, float]]]

_LOCK: Final = threading.Lock()
_read: dict[Path, tuple[object, Times]] = {}


def measured(choice: Choice, problem: Problem, device: Device) -> Choice:
    """Return `choice` with the measured times put in, fastest measured kernel first."""
    name = describe(problem)
    known = _load().get(_machine(device), {}).get(name) or shipped().get(device.name, {}).get(name)
    if not known:
        return choice
    others = [
        judged(variant, problem, device)
        for candidate in choice.candidates
        for variant in variants(candidate.config, device)
        if str(variant) in known
    ]
    timed = [c._replace(measured=known.get(str(c.config))) for c in (*choice.candidates, *others)]
    order = sorted(timed, key=lambda c: (bool(c.refusal), c.measured or inf))
    return Choice(tuple(order))


@cache
def shipped() -> Times:
    """Return the times that come with the library."""
    file = resources.files("tvwarray._kernels").joinpath(SHIPPED)
    return _valid(json.loads(file.read_text()))


def record(problem: Problem, device: Device, seconds: dict[str, float]) -> Path:
    """Keep the measured seconds of kernels, by their names; return the file."""
    path = cache_folder() / FILE
    with _LOCK:
        times = _fresh(path)
        times.setdefault(_machine(device), {})[describe(problem)] = dict(seconds)
        text = json.dumps({"format": 1, "times": times}, indent=1, sort_keys=True)
        handle, made = tempfile.mkstemp(prefix=".making-", dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(made, path)
        _read.pop(path, None)
    return path


def describe(problem: Problem) -> str:
    """Return what a problem is called in the file: two with equal names take equally long."""
    tiles = hashlib.sha256(problem.bricks.tobytes() + problem.steps.tobytes()).hexdigest()[:16]
    rows, cols = problem.shape
    pattern = "2:4" if problem.sparse else "all slots"
    return f"{problem.dtype.name} {pattern} {rows}x{cols}, n {problem.n}, tiles {tiles}"


def _machine(device: Device) -> str:
    return f"{device.name or 'sm_' + device.architecture}, tvwarray {__version__}"


def _load() -> Times:
    """Return the file's times, read again only when the file has changed."""
    path = cache_folder() / FILE
    try:
        status = path.stat()
    except OSError:
        return {}
    stamp = (status.st_mtime_ns, status.st_size)
    with _LOCK:
        if path not in _read or _read[path][0] != stamp:
            _read[path] = (stamp, _fresh(path))
        return _read[path][1]


def _fresh(path: Path) -> Times:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= MAX_BYTES:
            return _valid(json.loads(path.read_text()))
    return {}


def _valid(content: Any) -> Times:
    """Return the parts of a file's content that have the right form."""
    if not isinstance(content, dict) or content.get("format") != 1:
        return {}
    return {
        machine: {
            problem: {
                kernel: float(seconds)
                for kernel, seconds in _items(kernels)
                if isinstance(seconds, int | float) and isfinite(seconds) and seconds > 0
            }
            for problem, kernels in _items(problems)
        }
        for machine, problems in _items(content.get("times"))
    }


def _items(value: Any) -> Any:
    return value.items() if isinstance(value, dict) else ()
