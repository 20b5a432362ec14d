"""Which framework a tensor belongs to, and which package of ours takes it over.

No framework is imported here, and none by ``import tvwarray``: the type of a tensor names its
framework, which is in memory by then. The packages that take tensors over build on the products
and stand above them; they are named here, as entry points are, and imported when the first tensor
of their kind is met.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np

HANDLERS: Final = {
    "torch": "tvwarray.torch",
    "jax": "tvwarray.jax",
    "jaxlib": "tvwarray.jax",
    "tensorflow": "tvwarray.tf",
    "dask": "tvwarray.dask",
}
"""By the top-level package that a tensor's class, or a class it derives from, is defined in."""


class Handler(Protocol):
    """What a framework's package offers to the functions that meet its tensors."""

    def matmul(
        self,
        A: Any,
        x: Any,
        *,
        out: Any = None,
        backend: str | None = None,
        precision: Any = "default",
        epilogue: Any = None,
    ) -> Any:
        """Return ``A @ x`` as a tensor of the framework."""
        ...

    def linear(
        self,
        x: Any,
        A: Any,
        bias: Any = None,
        activation: Any = None,
        *,
        residual: Any = None,
        out: Any = None,
        backend: str | None = None,
        precision: Any = "default",
    ) -> Any:
        """Return ``activation(x @ A.T + bias) + residual`` as a tensor of the framework."""
        ...

    def to_array(self, x: Any) -> Any:
        """Return a dense tensor as a NumPy or CuPy array, without a copy where that can be."""
        ...

    def to_coo(self, x: Any) -> tuple[Any, tuple[Any, Any], tuple[int, int]] | None:
        """Return values, (rows, columns) and shape of a sparse tensor, or None if it is dense."""
        ...


def handler_of(*operands: Any) -> Handler | None:
    """Return the package that takes over the first operand which a framework owns, or None."""
    for x in operands:
        kind = type(x)
        if kind is np.ndarray:
            continue
        for base in kind.__mro__:
            name = HANDLERS.get(base.__module__.partition(".")[0])
            if name is not None:
                return import_module(name)
    return None


def package(name: str) -> Any:
    """Return our package for the framework `name`, for methods that name it themselves.

    Raises
    ------
    ImportError
        If the framework is not installed.
    """
    try:
        return import_module(f"tvwarray.{name}")
    except ModuleNotFoundError as e:
        raise ImportError(
            f"{e.name} is not installed; pip install 'tvwarray[{name}]' brings it."
        ) from e


def native(x: Any) -> Any:
    """Return a framework's dense tensor as a NumPy or CuPy array; all else as it is."""
    handler = handler_of(x)
    return x if handler is None else handler.to_array(x)
