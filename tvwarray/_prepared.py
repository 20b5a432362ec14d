"""What is kept with a matrix for its next products: packs, and the outcome of earlier checks.

A product of small operands takes a few microseconds, and asking every backend as long again. What
the checks and the choice depend on - types, shapes, dtypes, devices - is a key; a product whose key
was met before goes straight to its backend. Entries go when their matrix does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from tvwarray._namespace import Array
from tvwarray._storage import TVWStorage

MOST_KEYS: Final = 256
"""Of one matrix; more shapes than these are no loop over one."""


class PackCache:
    """What each backend made of each matrix, by the backend's name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packs: WeakKeyDictionary[TVWStorage, dict[str, Any]] = WeakKeyDictionary()
        self._busy: WeakKeyDictionary[TVWStorage, threading.Lock] = WeakKeyDictionary()

    def get(self, storage: TVWStorage, name: str, pack: Callable[[TVWStorage], Any]) -> Any:
        """Return what `pack` makes of `storage`: made once, kept as long as the matrix."""
        known = self._packs.get(storage)
        if known is not None and name in known:
            return known[name]
        with self._lock:
            packs = self._packs.setdefault(storage, {})
            busy = self._busy.setdefault(storage, threading.Lock())
        with busy:  # two threads that meet pack a matrix once, and other matrices do not wait
            if name not in packs:
                packs[name] = pack(storage)
            return packs[name]


class Prepared(NamedTuple):
    """A backend that takes a product, and what it made of the matrix."""

    backend: Any
    packed: Any

    def __call__(self, x: Array, out: Array | None, transposed: bool) -> Array:
        """Return the product by the backend, with nothing checked."""
        if x.ndim == 2:
            result: Array = self.backend.matmul(self.packed, x, out, transposed=transposed)
            return result
        target = None if out is None else out[:, None]
        result = self.backend.matmul(self.packed, x[:, None], target, transposed=transposed)
        return result[:, 0] if out is None else out


class PreparedProducts:
    """The products of each matrix that passed all checks, by `signature`."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[TVWStorage, dict[Hashable, Prepared]] = WeakKeyDictionary()

    def get(self, storage: TVWStorage, key: Hashable) -> Prepared | None:
        """Return how such a product ran before, or None."""
        known = self._known.get(storage)
        return None if known is None else known.get(key)

    def keep(self, storage: TVWStorage, key: Hashable, prepared: Prepared) -> None:
        """Remember how a product ran."""
        known = self._known.setdefault(storage, {})
        if len(known) >= MOST_KEYS:
            known.clear()
        known[key] = prepared


def signature(x: Array, out: Array | None) -> Hashable | None:
    """Return what the checks of operands depend on, or None if each has to be looked at."""
    left = _signature(x)
    if left is None or x.ndim > 2:
        return None
    if out is None:
        return left
    right = _signature(out)
    return None if right is None else (left, right)


def _signature(x: Array) -> tuple[Any, ...] | None:
    kind = type(x)
    if kind is np.ndarray:
        return x.dtype, x.shape, x.flags.writeable
    if is_cupy(kind):
        return kind, x.dtype, x.shape, x.data.device_id
    return None


def is_cupy(kind: type) -> bool:
    """Return whether `kind` is CuPy's array itself, without importing CuPy."""
    return kind.__name__ == "ndarray" and kind.__module__.partition(".")[0] == "cupy"
