"""Products that torch differentiates, with respect to x and to the stored values.

With ``Y = x @ A.T``, both gradients are products of the same kind, so that they can be
differentiated again::

    dx      = dY @ conj(A)            a product with the transpose
    dvalues = dY.T @ conj(x)          at the stored slots alone (`tvwarray._sampled`)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import torch

from tvwarray import _matmul
from tvwarray._frozen import FrozenPattern
from tvwarray._kernels.streams import settled
from tvwarray._operands import Stored
from tvwarray._storage import TVWStorage
from tvwarray.torch._cuda import on_current_stream
from tvwarray.torch._tensors import to_array, to_tensor


class Weights(Protocol):
    """The sparse side of a product: a matrix whose values may be a tensor."""

    def storage(self, values: torch.Tensor | None) -> TVWStorage:
        """Return the matrix that holds `values`."""
        ...


class Fixed:
    """A matrix with values of its own."""

    def __init__(self, storage: TVWStorage) -> None:
        self._storage = storage

    def storage(self, values: torch.Tensor | None) -> TVWStorage:
        """Return the matrix; there are no `values`."""
        return self._storage


class Trained:
    """A pattern that a tensor fills with values; filled anew only where they have changed.

    A product packs its matrix first, which takes about as long as multiplying a few samples: so
    the last matrix is kept. On the CPU it is held against the values each time: version counters
    miss what is written through ``Tensor.data``, and reading the values takes a fraction of the
    product. On a GPU that would wait for the device, and the version decides.
    """

    def __init__(self, pattern: FrozenPattern) -> None:
        self.pattern = pattern
        self._last: tuple[Any, TVWStorage] | None = None

    def storage(self, values: torch.Tensor | None) -> TVWStorage:
        """Return the matrix of `values`."""
        assert values is not None
        with on_current_stream(values):
            return self._filled(values)

    def _filled(self, values: torch.Tensor) -> TVWStorage:
        array, last = to_array(values), self._last
        if isinstance(array, np.ndarray):
            if last is not None and _same_bits(last[0], array):
                return last[1]
            array = array.copy()
            state: Any = array
        elif values.is_inference():  # such a tensor counts no versions
            return self.pattern.fill(array.copy())
        else:
            state = (values.data_ptr(), values._version, values.dtype, values.device)
            if last is not None and last[0] == state:
                return last[1]
            array = array.copy()
        with settled(array):  # a product on another stream may find it
            storage = self.pattern.fill(array)
        self._last = state, storage
        return storage


def _same_bits(a: Any, b: Any) -> bool:
    """Say whether two flat arrays of the host are equal bit for bit; NaN is equal to itself."""
    if not isinstance(a, np.ndarray) or a.dtype != b.dtype:
        return False
    bits = f"u{a.dtype.itemsize}" if a.dtype.kind != "c" else f"u{a.dtype.itemsize // 2}"
    return np.array_equal(a.view(bits), np.ascontiguousarray(b).view(bits))


@dataclass(frozen=True)
class Call:
    """What a product needs beside tensors."""

    weights: Weights
    transposed: bool
    options: dict[str, Any]

    @property
    def flipped(self) -> Call:
        """The same with the transpose."""
        return replace(self, transposed=not self.transposed)


class Product(torch.autograd.Function):
    """``x @ A.T + bias`` for x of shape (m, cols)."""

    @staticmethod
    def forward(
        call: Call,
        values: torch.Tensor | None,
        x: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """Multiply, as arrays."""
        A = Stored(call.weights.storage(values), call.transposed)
        with on_current_stream(x):
            plain = None if bias is None else to_array(bias)
            return to_tensor(_matmul.linear(to_array(x), A, plain, **call.options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep what the gradients need; x only where the values have one."""
        ctx.call, values, x, bias = inputs
        ctx.save_for_backward(values, None if values is None else x)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the values, of x and of the bias."""
        values, x = ctx.saved_tensors
        call: Call = ctx.call
        dvalues = dx = dbias = None
        if ctx.needs_input_grad[1]:
            assert isinstance(call.weights, Trained)
            pair = (x.conj(), dy) if call.transposed else (dy, x.conj())
            dvalues = Sampled.apply(call, *pair)
        if ctx.needs_input_grad[2]:
            dx = Product.apply(call.flipped, values, dy.conj(), None).conj()
        if ctx.needs_input_grad[3]:
            dbias = dy.sum(0, dtype=_summed(dy.dtype)).to(ctx.bias_dtype)
        return None, dvalues, dx, dbias

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[torch.Tensor, int]:
        """Fold a batch of x into its rows; a batch of values or biases is taken one by one."""
        call, values, x, bias = inputs
        _, values_dim, x_dim, bias_dim = in_dims
        if values_dim is None and bias_dim is None:
            x = x.movedim(x_dim, 0)
            return Product.apply(call, values, x.flatten(0, 1), bias).unflatten(0, x.shape[:2]), 0
        return _one_by_one(Product, info, in_dims, inputs)


class Sampled(torch.autograd.Function):
    """``left.T @ right``, (m, rows) and (m, cols), at the places of the values."""

    @staticmethod
    def forward(call: Call, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Multiply, as arrays."""
        assert isinstance(call.weights, Trained)
        with on_current_stream(left):
            return to_tensor(call.weights.pattern.gradient(to_array(left).T, to_array(right).T))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep both factors."""
        ctx.call, left, right = inputs
        ctx.save_for_backward(left, right)

    @staticmethod
    def backward(ctx: Any, dv: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of both factors: products with the matrix of the values `dv`."""
        left, right = ctx.saved_tensors
        assert isinstance(ctx.call.weights, Trained)
        call = Call(Trained(ctx.call.weights.pattern), False, ctx.call.options)
        dleft = dright = None
        if ctx.needs_input_grad[1]:
            dleft = Product.apply(call, dv, right.conj(), None)
        if ctx.needs_input_grad[2]:
            dright = Product.apply(call.flipped, dv, left.conj(), None)
        return None, dleft, dright

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[torch.Tensor, int]:
        """Take the batch one by one."""
        return _one_by_one(Sampled, info, in_dims, inputs)


def _one_by_one(
    function: Any, info: Any, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]
) -> tuple[torch.Tensor, int]:
    def member(i: int) -> torch.Tensor:
        pairs = zip(inputs, in_dims, strict=True)
        result: torch.Tensor = function.apply(
            *(x if d is None else x.select(d, i) for x, d in pairs)
        )
        return result

    return torch.stack([member(i) for i in range(info.batch_size)]), 0


def _summed(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _NARROW else dtype


_NARROW: Final = (torch.float16, torch.bfloat16)
