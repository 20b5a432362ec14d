"""`conv2d`: convolution by a pruned weight, as one product with the unfolded input.

A weight of shape (out channels, in channels, kh, kw) is kept as the matrix (out channels,
in channels * kh * kw). The input is unfolded (im2col) to match it::

    x (batch, channels, height, width)
      --pad, one strided slice a kernel position-->  X (channels * kh * kw, batch * out pixels)
      --A @ X-->  Y (out channels, batch * out pixels)  -->  y (batch, out channels, ...)

A column of `A` is a row of `X`: what a tile does not keep is unfolded, but not multiplied. `X` is
kh * kw times the input, so it is made in parts of at most `workspace` bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

from tvwarray._activations import Activation
from tvwarray._block_diagonal import block_diagonal
from tvwarray._dtypes import product_dtype
from tvwarray._matmul import linear
from tvwarray._namespace import Array, array_namespace, device_of, dtype_of, is_array, native_dtype
from tvwarray._operands import Operand, Stored
from tvwarray._storage import TVWStorage

DEFAULT_WORKSPACE: Final = 2**28

Pair = int | tuple[int, int]


def conv2d(
    x: Array,
    A: Operand,
    *,
    kernel_size: Pair,
    bias: Array | None = None,
    activation: Activation | None = None,
    stride: Pair = 1,
    padding: Pair | Literal["same", "valid"] = 0,
    dilation: Pair = 1,
    groups: int = 1,
    backend: str | None = None,
    workspace: int = DEFAULT_WORKSPACE,
) -> Array:
    """Return the 2-D convolution (cross-correlation, as in neural networks) of `x` by `A`.

    Parameters
    ----------
    x : array, shape (batch, channels, height, width) or (channels, height, width)
    A : TVWMatrix, shape (out_channels, channels / groups * kh * kw)
        A weight (out_channels, channels / groups, kh, kw), reshaped to two axes.
    kernel_size : int or (int, int)
        kh and kw.
    bias : array, shape (out_channels,), optional
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or callable, optional
    stride, dilation : int or (int, int)
    padding : int, (int, int), "same" or "valid"
        Zeros at both ends of each axis. "same" keeps height and width, for a stride of 1; an odd
        one goes to the far end.
    groups : int
        Output channels i * out_channels / groups and on see part i of the channels alone.
    backend : {"cuda", "cpu", "array", "dense"}, optional
        As in `matmul`.
    workspace : int
        Bytes of unfolded input that are held at a time, if one row of output pixels fits.

    Returns
    -------
    array, shape (batch, out_channels, out_height, out_width) or without batch, as `x`

    Raises
    ------
    ValueError
        If the shapes do not fit, or the kernel is larger than the padded input.
    BackendError
        If no backend runs the product.

    Notes
    -----
    Zeros of the padding are multiplied like any others: an infinite weight there gives NaN.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> rng = np.random.default_rng(0)
    >>> weight = rng.standard_normal((64, 32, 3, 3), dtype=np.float32)
    >>> A = tvwarray.sparsify(weight.reshape(64, -1), 0.75)
    >>> x = rng.standard_normal((2, 32, 28, 28), dtype=np.float32)
    >>> tvwarray.conv2d(x, A, kernel_size=3, padding=1).shape
    (2, 64, 28, 28)
    """
    if not is_array(x):
        raise ValueError(f"x is a {type(x).__name__}; it must be an array of 3 or 4 dimensions.")
    if x.ndim not in (3, 4):
        raise ValueError(
            f"x has {x.ndim} dimensions; it is (batch, channels, height, width), or without batch."
        )
    window = _Window.of(x.shape[-2:], kernel_size, stride, padding, dilation)
    _check_channels(x.shape[-3], A, window, groups)
    batched = x if x.ndim == 4 else x[None, ...]
    weight = A if groups == 1 else _grouped(A.storage, groups)
    xp = array_namespace(x)
    shape = (batched.shape[0], A.shape[0], *window.out)
    dtype = product_dtype(A.storage.dtype, dtype_of(x))
    out = xp.empty(shape, dtype=native_dtype(xp, dtype), device=device_of(x))
    pixel_bytes = A.shape[1] * groups * dtype_of(x).itemsize
    for samples, rows in _parts(shape, max(1, workspace // max(1, pixel_bytes))):
        columns = window.unfold(batched[samples, ...], rows)
        part = linear(columns.T, weight, bias, activation, backend=backend)
        height = rows.stop - rows.start
        pixels = xp.reshape(part, (-1, height, window.out[1], shape[1]))
        out[samples, :, rows, :] = xp.permute_dims(pixels, (0, 3, 1, 2))
    return out if x.ndim == 4 else out[0, ...]


@dataclass(frozen=True)
class _Window:
    """How the kernel moves over the input: (vertical, horizontal) each."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    """Zeros above and left of the input."""
    after: tuple[int, int]
    out: tuple[int, int]
    """Output pixels."""

    @classmethod
    def of(
        cls, size: tuple[int, ...], kernel_size: Pair, stride: Pair, padding: Any, dilation: Pair
    ) -> _Window:
        kernel = _pair("kernel_size", kernel_size, 1)
        step = _pair("stride", stride, 1)
        spread = _pair("dilation", dilation, 1)
        reach = tuple(d * (k - 1) for d, k in zip(spread, kernel, strict=True))
        if padding == "valid":
            padding = 0
        if padding == "same":
            if step != (1, 1):
                raise ValueError(f'padding="same" needs a stride of 1, not {step}.')
            before = tuple(r // 2 for r in reach)
            after = tuple(r - r // 2 for r in reach)
        else:
            before = after = _pair("padding", padding, 0)
        out = []
        for axis, name in enumerate(("height", "width")):
            room = size[axis] + before[axis] + after[axis] - reach[axis]
            if room < 1:
                raise ValueError(
                    f"the kernel covers {reach[axis] + 1} pixels of {name}, the padded input has "
                    f"{room + reach[axis]}; pad it, or take a smaller kernel or dilation."
                )
            out.append((room - 1) // step[axis] + 1)
        return cls(kernel, step, spread, before, after, (out[0], out[1]))  # type: ignore[arg-type]

    def unfold(self, x: Array, rows: slice) -> Array:
        """Return the input under the kernel for some rows of output pixels.

        Parameters
        ----------
        x : array, shape (batch, channels, height, width)
        rows : slice

        Returns
        -------
        array, shape (channels * kh * kw, batch * rows * out width)
        """
        xp = array_namespace(x)
        batch, channels, height, width = x.shape
        (kh, kw), (dh, dw), (sh, sw) = self.kernel, self.dilation, self.stride
        top = rows.start * sh - self.before[0]  # what the first of these rows begins to see
        bottom = (rows.stop - 1) * sh - self.before[0] + dh * (kh - 1) + 1
        seen = x[:, :, max(top, 0) : max(min(bottom, height), 0), :]
        if top < 0 or bottom > height or self.before[1] or self.after[1]:
            padded = xp.zeros(
                (batch, channels, bottom - top, self.before[1] + width + self.after[1]),
                dtype=x.dtype,
                device=device_of(x),
            )
            first = max(-top, 0)
            left = self.before[1]
            padded[:, :, first : first + seen.shape[2], left : left + width] = seen
            seen = padded
        count = rows.stop - rows.start
        shape = (channels, kh, kw, batch, count, self.out[1])
        columns = xp.empty(shape, dtype=x.dtype, device=device_of(x))
        for i, j in product(range(kh), range(kw)):
            down = slice(i * dh, i * dh + (count - 1) * sh + 1, sh)
            right = slice(j * dw, j * dw + (self.out[1] - 1) * sw + 1, sw)
            columns[:, i, j, ...] = xp.permute_dims(seen[:, :, down, right], (1, 0, 2, 3))
        return xp.reshape(columns, (channels * kh * kw, batch * count * self.out[1]))


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    two = (value, value) if isinstance(value, int) else tuple(value)
    if len(two) != 2 or not all(isinstance(v, int) and v >= least for v in two):
        raise ValueError(f"{name} is {value!r}; it is an integer of at least {least}, or two.")
    return two


def _check_channels(channels: int, A: Operand, window: _Window, groups: int) -> None:
    if groups < 1 or channels % groups or A.shape[0] % groups:
        raise ValueError(
            f"groups is {groups}; it must divide the {channels} channels of x and the "
            f"{A.shape[0]} rows of A."
        )
    kh, kw = window.kernel
    if A.shape[1] != channels // groups * kh * kw:
        raise ValueError(
            f"A has {A.shape[1]} columns; x has {channels} channels in {groups} group(s), and a "
            f"kernel of {kh} x {kw} needs {channels // groups * kh * kw}."
        )
    if A.transposed:
        raise ValueError("A is a transpose; pass the matrix whose rows are the output channels.")


def _parts(shape: tuple[int, ...], pixels: int) -> Iterator[tuple[slice, slice]]:
    """Yield (samples, rows of output pixels) of at most `pixels` pixels, or of one row."""
    batch, _, height, width = shape
    samples = max(1, pixels // max(1, height * width))
    rows = height if samples > 1 else min(height, max(1, pixels // max(1, width)))
    for first in range(0, batch, samples):
        for top in range(0, height, rows):
            yield slice(first, min(first + samples, batch)), slice(top, min(top + rows, height))


_LIFTED: WeakKeyDictionary[TVWStorage, dict[int, TVWStorage]] = WeakKeyDictionary()
_LIFTING = threading.Lock()


def _grouped(storage: TVWStorage, groups: int) -> Stored:
    """Return the block-diagonal operand, made once for a matrix and forgotten with it."""
    with _LIFTING:
        made = _LIFTED.setdefault(storage, {})
        if groups not in made:
            made[groups] = block_diagonal(storage, groups)
        return Stored(made[groups])
