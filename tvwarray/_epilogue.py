"""What happens to a product before it is stored: scale, add, activate, add, cast.

In this order, all of it in the type that products are summed in::

    y = activation(alpha * row_scale * (A @ X) * col_scale + beta * c + bias) + residual

and one cast to `out_dtype` at the end. Backends fuse what they can; `apply` is the rest, and the
meaning of all of it, for arrays of any library.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

import numpy as np

from tvwarray._activations import Activation, ActivationName, apply_activation, check_activation
from tvwarray._dtypes import FLOAT32, INT32, DType, accumulate_dtype, value_dtype
from tvwarray._namespace import Array, array_namespace, as_dtype, dtype_of, is_array

_FLOAT64: Final = np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What to do with ``A @ X``, of shape (rows, n), before it is stored.

    Parameters
    ----------
    alpha : float
        Factor of the product.
    beta : float
        Factor of `c`. With 0, `c` is not read, as in BLAS.
    c : array, shape (rows, n), optional
        May be the array that the result is written to.
    bias : array, shape (rows,) or (n,), optional
    bias_axis : {0, 1}
        Which axis of the product `bias` runs along: 0 for one value a row, 1 for one a column.
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or callable, optional
    residual : array, shape (rows, n), optional
        Added after the activation.
    out_dtype : dtype, optional
        Of the result; by default that of the product, or a float type where an integer product
        meets a part that is none.
    row_scale, col_scale : array, shape (rows,) and (n,), optional
        Factors of the rows and columns of the product: the scales of quantised operands.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((256, 512)), 0.75)
    >>> X, C = np.ones((512, 8)), np.ones((256, 8))
    >>> steps = tvwarray.Epilogue(alpha=2.0, beta=1.0, c=C)  # 2 A X + C, as BLAS has it
    >>> np.allclose(tvwarray.matmul(A, X, epilogue=steps), 2 * (A @ X) + C)
    True
    """

    alpha: float = 1.0
    beta: float = 0.0
    c: Array | None = None
    bias: Array | None = None
    bias_axis: Literal[0, 1] = 0
    activation: Activation | None = None
    residual: Array | None = None
    out_dtype: DType | None = None
    row_scale: Array | None = None
    col_scale: Array | None = None

    @property
    def is_cast(self) -> bool:
        """Whether nothing is done but a cast, if that."""
        same = self.alpha == 1 and self.beta == 0 and self.activation is None
        return same and not any(x is not None for x in self._vectors) and self.residual is None

    @property
    def activation_name(self) -> ActivationName | None:
        """The activation, or None where it is a function of the caller's or there is none."""
        return None if callable(self.activation) else self.activation

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Every array that is read."""
        c = self.c if self.beta != 0 else None
        return tuple(x for x in (c, *self._vectors, self.residual) if x is not None)

    @property
    def _vectors(self) -> tuple[Array | None, ...]:
        return (self.bias, self.row_scale, self.col_scale)

    def work_dtype(self, product: DType) -> DType:
        """Return the type in which the epilogue of a product of dtype `product` is computed."""
        summed = accumulate_dtype(product)
        if summed.kind in "fc" or not self._needs_floats():
            return summed
        return FLOAT32 if product == INT32 else _FLOAT64

    def result_dtype(self, product: DType) -> DType:
        """Return the dtype of the result where that of the bare product is `product`."""
        if self.out_dtype is not None:
            return self.out_dtype
        work = self.work_dtype(product)
        return product if work == accumulate_dtype(product) else work

    def _needs_floats(self) -> bool:
        if self.activation not in (None, "relu"):
            return True
        if self.alpha != int(self.alpha) or self.beta != int(self.beta):
            return True
        if self.out_dtype is not None and self.out_dtype.kind not in "iub":
            return True
        return any(dtype_of(x).kind not in "iub" for x in self.arrays)


IDENTITY: Final = Epilogue()
"""The product as it is."""


def checked(epilogue: Epilogue, shape: tuple[int, ...], like: Array) -> Epilogue:
    """Return `epilogue` with its parts as arrays, or say which does not fit.

    Parameters
    ----------
    epilogue : Epilogue
    shape : tuple of int
        Of the product, (..., rows, n).
    like : array
        An operand, whose library the arrays must be of; lists become NumPy arrays.

    Raises
    ------
    ValueError
        If a shape, a library, a dtype or the name of the activation does not fit.
    """
    if epilogue is IDENTITY:
        return epilogue
    if epilogue.bias_axis not in (0, 1):
        raise ValueError(f"bias_axis is {epilogue.bias_axis!r}; it is 0 (rows) or 1 (columns).")
    if epilogue.beta != 0 and epilogue.c is None:
        raise ValueError(f"beta is {epilogue.beta} and c is missing; beta is the factor of c.")
    if epilogue.activation is not None:
        check_activation(epilogue.activation)
    rows, n = shape[-2:]
    along = (((rows,), "the rows of A"), ((n,), "the columns of X"))
    wanted: dict[str, tuple[tuple[int, ...], str]] = {
        "c": (shape, "the shape of the product"),
        "residual": (shape, "the shape of the product"),
        "bias": along[epilogue.bias_axis],
        "row_scale": along[0],
        "col_scale": along[1],
    }
    changed: dict[str, Any] = {}
    for name, (expected, meaning) in wanted.items():
        part = getattr(epilogue, name)
        if part is None:
            continue
        part = part if is_array(part) else np.asarray(part)
        if array_namespace(part) is not array_namespace(like):
            raise ValueError(f"{name} is {type(part).__name__}; it must be of the library of X.")
        if tuple(part.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(part.shape)}; it must be {expected}, {meaning}."
            )
        changed[name] = part
    if epilogue.out_dtype is not None:
        changed["out_dtype"] = value_dtype(epilogue.out_dtype, where="out_dtype")
    same = all(value is getattr(epilogue, name) for name, value in changed.items())
    return epilogue if same else replace(epilogue, **changed)


def apply(epilogue: Epilogue, product: Array, dtype: DType) -> Array:
    """Return what `epilogue` makes of `product`.

    Parameters
    ----------
    epilogue : Epilogue
        Checked.
    product : array, shape (..., rows, n)
        In the type that it was summed in; it is not changed.
    dtype : dtype
        That of the bare product, `product_dtype` of its operands.
    """
    work, result = epilogue.work_dtype(dtype), epilogue.result_dtype(dtype)
    if epilogue.is_cast:
        return as_dtype(product, result)
    with np.errstate(all="ignore"):  # infinities and NaN are results here
        total = as_dtype(product, work)
        if epilogue.alpha != 1:
            total = total * _scalar(epilogue.alpha, work)
        if epilogue.row_scale is not None:
            total = total * as_dtype(epilogue.row_scale, work)[:, None]
        if epilogue.col_scale is not None:
            total = total * as_dtype(epilogue.col_scale, work)
        if epilogue.beta != 0:
            total = total + as_dtype(epilogue.c, work) * _scalar(epilogue.beta, work)
        if epilogue.bias is not None:
            bias = as_dtype(epilogue.bias, work)
            total = total + (bias[:, None] if epilogue.bias_axis == 0 else bias)
        if epilogue.activation is not None:
            total = apply_activation(epilogue.activation, total)
        if epilogue.residual is not None:
            total = total + as_dtype(epilogue.residual, work)
        return as_dtype(total, result)


def finish(epilogue: Epilogue, product: Array, dtype: DType, out: Array | None) -> Array:
    """Return `apply`'s result, written to `out` if it is given."""
    result = apply(epilogue, product, dtype)
    if out is None:
        return result
    if out is not result:
        out[...] = result
    return out


def without(epilogue: Epilogue, *names: str) -> Epilogue:
    """Return `epilogue` with the fields `names` as they are by default."""
    defaults: dict[str, Any] = {f.name: f.default for f in fields(Epilogue)}
    return replace(epilogue, **{name: defaults[name] for name in names})


def _scalar(value: float, work: DType) -> float | int:
    return int(value) if work.kind in "iub" else float(value)
