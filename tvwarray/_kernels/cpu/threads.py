"""How many threads the compiled engine uses: what the machine allows, or what one asks for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Final

from tvwarray._native import native

VARIABLES: Final = ("TVWARRAY_NUM_THREADS", "OMP_NUM_THREADS")
"""The first one that is set is the number of threads to begin with."""


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and the quota of its container."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return cpus if quota is None else max(1, min(cpus, ceil(quota)))


def cgroup_quota(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> float | None:
    """Return the CPUs that the control groups of this process are worth, or None without a limit.

    Parameters
    ----------
    root : str
        Where the control groups are mounted, of version 1 or 2.
    own : str
        Where the groups of this process are listed, as lines of ``number:controllers:/path``.
    """
    try:
        lines = Path(own).read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = Path(root, controllers)  # a group of version 2 has no controllers here
        for group in (Path(path), *Path(path).parents):
            quota = _quota_of(top / group.relative_to("/"))
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        return None if limit in ("max", "-1") else int(limit) / int(period)
    except (OSError, ValueError):
        return None


@cache
def engine() -> ModuleType | None:
    """Return the compiled extension with its threads set for this machine, or None without it."""
    compiled = native()
    if compiled is not None:
        compiled.set_num_threads(first_num_threads())
    return compiled


def first_num_threads() -> int:
    """Return the number of threads to begin with: an environment variable's, or all usable CPUs."""
    for name in VARIABLES:
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdecimal() and int(text) > 0:
            return int(text)
        if text:
            warnings.warn(f"{name} is {text!r}, not a positive number; ignored.", stacklevel=2)
    return usable_cpus()


def get_num_threads() -> int:
    """Return the most threads that a product on the CPU uses, the calling one included.

    Returns
    -------
    int
        1 where the compiled engine is missing: NumPy's BLAS has threads of its own.
    """
    compiled = engine()
    return 1 if compiled is None else int(compiled.num_threads())


def set_num_threads(n: int) -> None:
    """Let products on the CPU use up to `n` threads.

    Small products use fewer, and results are the same bits for any number. The limit is the
    process's; it begins as ``TVWARRAY_NUM_THREADS``, ``OMP_NUM_THREADS`` or the usable CPUs.

    Parameters
    ----------
    n : int
        One or more, the calling thread included.

    Raises
    ------
    ValueError
        If `n` is below one.
    """
    if n < 1:
        raise ValueError(f"a product needs at least one thread, not {n}.")
    compiled = engine()
    if compiled is not None:
        compiled.set_num_threads(n)


@contextmanager
def limit_threads(n: int) -> Iterator[None]:
    """Use up to `n` threads within a ``with`` block, in all threads of the process.

    Parameters
    ----------
    n : int
        See `set_num_threads`.

    Examples
    --------
    >>> import tvwarray
    >>> with tvwarray.limit_threads(1):
    ...     tvwarray.get_num_threads()
    1
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)
