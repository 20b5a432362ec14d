"""NumPy's protocols: which of its functions and ufuncs a matrix answers, and with which method.

Without them, ``np.sin(A)`` or ``array + A`` would loop over an object array. What has no sparse
meaning is refused, since a dense copy is never made unasked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tvwarray._sparray.elementwise import ZERO_PRESERVING

BINARY: Final[Mapping[Any, tuple[str, str]]] = {
    np.add: ("__add__", "__radd__"),
    np.subtract: ("__sub__", "__rsub__"),
    np.multiply: ("__mul__", "__rmul__"),
    np.divide: ("__truediv__", "__rtruediv__"),
    np.matmul: ("__matmul__", "__rmatmul__"),
    np.power: ("__pow__", "__rpow__"),
    np.equal: ("__eq__", "__eq__"),
    np.not_equal: ("__ne__", "__ne__"),
    np.less: ("__lt__", "__gt__"),
    np.less_equal: ("__le__", "__ge__"),
    np.greater: ("__gt__", "__lt__"),
    np.greater_equal: ("__ge__", "__le__"),
    np.maximum: ("maximum", "maximum"),
    np.minimum: ("minimum", "minimum"),
}
"""The methods that answer ``ufunc(A, x)`` and ``ufunc(x, A)``."""

UNARY: Final[Mapping[Any, str]] = {
    **{getattr(np, name): name for name in ZERO_PRESERVING},
    np.absolute: "__abs__",
    np.negative: "__neg__",
    np.positive: "__pos__",
    np.conjugate: "conj",
}

METHODS: Final[Mapping[Any, str]] = {
    np.sum: "sum",
    np.mean: "mean",
    np.max: "max",
    np.min: "min",
    np.nanmax: "nanmax",
    np.nanmin: "nanmin",
    np.argmax: "argmax",
    np.argmin: "argmin",
    np.trace: "trace",
    np.diagonal: "diagonal",
    np.count_nonzero: "count_nonzero",
    np.nonzero: "nonzero",
    np.transpose: "transpose",
    np.reshape: "reshape",
    np.copy: "copy",
}

ATTRIBUTES: Final[Mapping[Any, Callable[[Any], Any]]] = {
    np.shape: lambda A: A.shape,
    np.ndim: lambda A: A.ndim,
    np.size: lambda A: A.size,
    np.real: lambda A: A.real,
    np.imag: lambda A: A.imag,
    np.iscomplexobj: lambda A: A.dtype.kind == "c",
    np.isrealobj: lambda A: A.dtype.kind != "c",
}

OF_DTYPES: Final = (np.common_type, np.result_type)
"""Functions of several arrays that ask for nothing but their dtypes."""


def array_ufunc(
    A: Any, ufunc: Any, method: str, inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Return ``ufunc(*inputs)``, one of which is `A`.

    Raises
    ------
    TypeError
        If the ufunc has no sparse meaning, or would write a sparse result to `out`.
    """
    out = kwargs.get("out", (None,))[0]
    result: Any = NotImplemented
    if method == "__call__" and not set(kwargs) - {"out"}:
        if ufunc in UNARY:
            result = getattr(A, UNARY[ufunc])()
        elif ufunc is np.square:
            result = A.power(2)
        elif ufunc in BINARY:
            forward, backward = BINARY[ufunc]
            first, second = inputs
            name, other = (forward, second) if first is A else (backward, first)
            answer = getattr(A, name, None)
            result = NotImplemented if answer is None else answer(other)
    if result is NotImplemented:
        raise TypeError(
            f"unsupported operand: numpy.{ufunc.__name__} of a TVWMatrix and these arguments; "
            "A.toarray() is dense, A.tocsr() is of scipy.sparse."
        )
    if out is None:
        return result
    if not isinstance(result, np.ndarray):
        raise TypeError(
            f"numpy.{ufunc.__name__} gives a sparse matrix, which has no place in a dense array; "
            "write x = x * A in place of x *= A."
        )
    np.copyto(out, result, casting="same_kind")
    return out


def array_function(A: Any, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return ``function(*args, **kwargs)``, one of whose arguments is `A`.

    Raises
    ------
    TypeError
        If the function has no sparse meaning.
    """
    if function is np.dot and len(args) == 2 and not kwargs:
        return A.dot(args[1]) if args[0] is A else args[0] @ A
    if function in OF_DTYPES and not kwargs:
        return function(*(np.empty(0, x.dtype) if isinstance(x, type(A)) else x for x in args))
    if args and args[0] is A:
        if function in ATTRIBUTES and len(args) == 1 and not kwargs:
            return ATTRIBUTES[function](A)
        if function is np.round or function is np.around:
            return A.__round__(*args[1:], **kwargs)
        if function in METHODS:
            return getattr(A, METHODS[function])(*args[1:], **kwargs)
    raise TypeError(
        f"{function.__module__}.{function.__name__} is not for sparse matrices; use A.toarray(), "
        "or its counterpart in scipy.sparse with A.tocsr()."
    )
