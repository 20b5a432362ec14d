"""float32 operands in bfloat16 parts, by the kernel ``split``.

Array operations take a pass over memory for each step of the arithmetic: 6 ms for 4096 x 4096 on an
H200, several times the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.launch import Launcher, Result
from tvwarray._namespace import Array, array_namespace, device_of

CHUNK_ELEMENTS: Final = 8
"""Elements of a part that a thread writes."""

_compiled: Final = cache(compile_kernel)


@dataclass(frozen=True)
class SplitConfig:
    """The constants of the kernel."""

    parts: int
    threads: int = 256
    kernel: str = "split"
    shared_bytes: int = 0

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        return "" if self.parts in (2, 3) else f"parts are 2 or 3, not {self.parts}"

    def target(self, architecture: str) -> str:
        """Return what to compile for, on a device of `architecture`."""
        return architecture

    def headers(self) -> dict[str, str]:
        """Return the text of ``config.cuh``, by name."""
        lines = [f"constexpr int {name} = {getattr(self, name)};" for name in ("parts", "threads")]
        return {"config.cuh": "\n".join(["#pragma once", "namespace config {", *lines, "}", ""])}


def parts_of(launcher: Launcher, x: Array, parts: int) -> Array:
    """Return the bfloat16 parts of `x`, as bit patterns; see `elements.bfloat16_parts`.

    Parameters
    ----------
    launcher : Launcher
    x : float32 array, shape (rows, n) or (batch, rows, n)
        Of any strides; read 16 bytes at a time where rows are contiguous and aligned.
    parts : {2, 3}

    Returns
    -------
    uint16 array, shape (parts, rows, width) or (parts, batch, rows, width)
        `width` is n, rounded up to a multiple of 8; zeros behind the first n.
    """
    xp, width = array_namespace(x), -(-int(x.shape[-1]) // CHUNK_ELEMENTS) * CHUNK_ELEMENTS
    found = xp.empty((parts, *x.shape[:-1], width), dtype=xp.uint16, device=device_of(x))
    split_to(launcher, x, found)
    return found


def split_to(launcher: Launcher, x: Array, found: Array) -> None:
    """Write the parts of `x` to `found`, contiguous, as `parts_of` returns them."""
    rows, n = x.shape[-2:]
    row_chunks = int(found.shape[-1]) // CHUNK_ELEMENTS
    chunks = int(np.prod(x.shape[:-1])) * row_chunks
    if not chunks:
        return
    config = SplitConfig(int(found.shape[0]))
    strides = [np.int64(s // x.dtype.itemsize) for s in x.strides]
    args = (
        x, *strides[-2:], strides[0] if x.ndim > 2 else np.int64(0), Result(found),
        int(rows), int(n), row_chunks, np.int64(chunks),
    )  # fmt: skip
    kernel = _compiled(config, launcher.device(x).architecture)
    launcher.launch(kernel, -(-chunks // config.threads), args, x)
