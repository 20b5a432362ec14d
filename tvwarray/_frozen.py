"""A matrix apart from its values: the pattern that training freezes, and values put into it.

Frameworks train a flat vector, the stored values in the order of ``data``, then of
``remainder_data``. Some of its places are no entries of the matrix: fillers of groups that hold
fewer than two values, and padding slots. They are zero, and stay so: `fill` puts zeros there
whatever the vector holds, and `gradient` is zero there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from tvwarray._namespace import Array, array_namespace, nonzero_mask, to_host
from tvwarray._sampled import sampled_product
from tvwarray._storage import TVWStorage


@dataclass(frozen=True, eq=False)
class FrozenPattern:
    """Where the values of a matrix stand."""

    frame: TVWStorage
    """The matrix with no values in its arrays."""
    stored: int
    """How many of the values belong to tiles; the others are the remainder's."""
    entries: Array
    """bool (values,): which values are entries of the matrix."""
    full: bool
    """Whether all of them are."""

    @property
    def size(self) -> int:
        """How many values there are."""
        return int(self.entries.shape[0])

    def fill(self, values: Array) -> TVWStorage:
        """Return the matrix with these values, and zeros where no entry is.

        Where every value is an entry, the matrix shares the memory of `values`.
        """
        xp = array_namespace(values)
        held = values if self.full else xp.where(self.entries, values, xp.zeros_like(values))
        beside = None if self.frame.remainder is None else held[self.stored :]
        return self.holding(held[: self.stored], beside)

    def holding(self, data: object, remainder_data: object) -> TVWStorage:
        """Return the matrix with these values as they are: they may be no arrays at all."""
        filled = replace(self.frame, data=data, remainder_data=remainder_data)
        _PATTERNS[filled] = self
        return filled

    def gradient(self, left: Array, right: Array) -> Array:
        """Return ``left @ right.T``, (rows, n) times (n, cols), at the entries: flat, else zero."""
        sampled = sampled_product(self.frame, left, right)
        if self.full:
            return sampled
        xp = array_namespace(sampled)
        return xp.where(self.entries, sampled, xp.zeros_like(sampled))


_PATTERNS: WeakKeyDictionary[TVWStorage, FrozenPattern] = WeakKeyDictionary()


def frozen_pattern(storage: TVWStorage) -> FrozenPattern:
    """Return the pattern of `storage`: its stored nonzeros are the entries.

    A storage that a pattern filled has that pattern, whatever values have become zero.
    """
    pattern = _PATTERNS.get(storage)
    if pattern is None:
        pattern = make_pattern(storage, nonzero_mask(values_of(storage)))
        _PATTERNS[storage] = pattern
    return pattern


def make_pattern(storage: TVWStorage, entries: Array) -> FrozenPattern:
    """Return the pattern of `storage` whose entries are those marked."""
    none = array_namespace(storage.data).asarray(storage.data[:0], copy=True)
    frame = replace(storage, data=none, remainder_data=None if storage.remainder is None else none)
    full = bool(to_host(array_namespace(entries).all(entries)))
    return FrozenPattern(frame, int(storage.data.shape[0]), entries, full)


def values_of(storage: TVWStorage) -> Array:
    """Return the values of `storage`, flat: those of its tiles, then those of the remainder."""
    if storage.remainder is None:
        return storage.data
    return array_namespace(storage.data).concat([storage.data, storage.remainder.data])
