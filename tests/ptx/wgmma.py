"""Where the operands of ``wgmma`` lie: matrix descriptors, swizzles, accumulators.

A descriptor names a matrix in shared memory in units of 16-byte chunks, eight rows of which are a
core matrix. With R chunks a row of the swizzle pattern (1, 2, 4, 8 for none, 32, 64, 128 bytes):

- K-major: row r, chunk c along k is R chunks a row, ``stride`` from eight rows to the next; without
  a swizzle, where a core matrix is 128 bytes in a row, ``leading`` from chunk to chunk along k.
- MN-major: element (k, n): chunks along n, R of them, then ``leading`` to the next R; R chunks from
  one k to the next, ``stride`` from eight k to the next. Without a swizzle the two are exchanged.

The swizzle exchanges chunks within 128-byte lines: bits 4 up of the address XOR bits 7 up, as many
as the pattern has.

Reference: PTX ISA 9.0, "Asynchronous Warpgroup Level Matrix Shared Memory Layout".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .errors import InvalidOperand
from .tensor import Fragment
from .warp import Array

__all__ = ["Descriptor", "accumulators"]

_PATTERN_CHUNKS = {0: 1, 3: 2, 2: 4, 1: 8}  # by bits 62 and 63


@dataclass(frozen=True)
class Descriptor:
    """A decoded descriptor; all in bytes."""

    start: int
    leading: int
    stride: int
    pattern: int
    """Chunks in a row of the swizzle pattern."""

    @classmethod
    def of(cls, bits: int) -> Descriptor:
        """Decode 64 bits; a base offset is not supported, patterns must begin where they repeat."""
        if bits >> 49 & 7:
            raise InvalidOperand("matrix descriptors with a base offset are not supported")
        if bits >> 14 & 3 or bits >> 30 & 3 or bits >> 46 & 7 or bits >> 52 & 0x3FF:
            raise InvalidOperand(f"matrix descriptor {bits:#018x}: reserved bits are set")
        return cls(
            (bits & 0x3FFF) * 16,
            (bits >> 16 & 0x3FFF) * 16,
            (bits >> 32 & 0x3FFF) * 16,
            _PATTERN_CHUNKS[bits >> 62],
        )

    def k_major(self, rows: Array, chunks: int) -> Array:
        """Addresses of the chunks of `rows` along k, shape (rows, chunks)."""
        row, chunk = rows[:, None], np.arange(chunks)[None, :]
        if self.pattern == 1:
            at = row // 8 * self.stride + row % 8 * 16 + chunk * self.leading
        else:
            if chunks > self.pattern:
                raise InvalidOperand(f"{chunks} chunks along k in a pattern of {self.pattern}")
            at = row // 8 * self.stride + row % 8 * 16 * self.pattern + chunk * 16
        return self._swizzled(self.start + at)

    def mn_major(self, depth: int, columns: int) -> Array:
        """Addresses of the chunks of 8 columns, shape (depth, columns / 8)."""
        k, chunk = np.arange(depth)[:, None], np.arange(columns // 8)[None, :]
        leading, stride = self.leading, self.stride
        if self.pattern == 1:
            leading, stride = stride, leading
        at = (
            chunk // self.pattern * leading
            + chunk % self.pattern * 16
            + k // 8 * stride
            + k % 8 * 16 * self.pattern
        )
        return self._swizzled(self.start + at)

    def _swizzled(self, address: Array) -> Array:
        out: Array = address ^ (address >> 7 & self.pattern - 1) << 4
        return out


@cache
def accumulators(columns: int) -> Fragment:
    """The part of D (64 x columns) that one warp holds: 16 rows.

    Elements 4j .. 4j + 3 of a thread: columns 8j + 2t and the next, in row g and in row g + 8.
    """
    return Fragment(
        16, columns, 32, lambda g, t, i: (g + 8 * (i >> 1 & 1), (i >> 2) * 8 + 2 * t + (i & 1))
    )
