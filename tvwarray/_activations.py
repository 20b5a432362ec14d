"""The activation functions of `linear`, for arrays of any library."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from tvwarray._namespace import Array, array_namespace

ActivationName = Literal["relu", "gelu", "gelu_tanh", "silu"]
Activation: TypeAlias = ActivationName | Callable[[Array], Array]


def apply_activation(activation: Activation, x: Array) -> Array:
    """Apply an activation by name, or a function of one array.

    Raises
    ------
    ValueError
        If the name is not known, or "gelu" meets a library whose erf is not known.
    """
    if callable(activation):
        return activation(x)
    check_activation(activation)
    with np.errstate(all="ignore"):  # infinities and NaN go through as the functions define
        return _FUNCTIONS[activation](array_namespace(x), x)


def check_activation(activation: Activation) -> None:
    """Raise ValueError if `activation` is neither a function nor a known name."""
    if not callable(activation) and activation not in get_args(ActivationName):
        names = ", ".join(get_args(ActivationName))
        raise ValueError(f"activation is {activation!r}; it is one of {names}, or a function.")


def _relu(xp: Any, x: Array) -> Array:
    return xp.maximum(x, xp.zeros_like(x))


def _gelu(xp: Any, x: Array) -> Array:
    return 0.5 * x * (1 + _erf(x)(x * math.sqrt(0.5)))


def _gelu_tanh(xp: Any, x: Array) -> Array:
    return 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _silu(xp: Any, x: Array) -> Array:
    return 0.5 * x * (1 + xp.tanh(0.5 * x))  # x / (1 + exp(-x)), without the overflow


_FUNCTIONS: Final = {"relu": _relu, "gelu": _gelu, "gelu_tanh": _gelu_tanh, "silu": _silu}


def _erf(x: Array) -> Callable[[Array], Array]:
    if isinstance(x, np.ndarray):
        special = import_module("scipy.special")
    elif "cupy" in sys.modules and type(x).__module__.startswith("cupy"):
        special = import_module("cupyx.scipy.special")
    else:
        raise ValueError(
            f'activation="gelu" needs erf, which {type(x).__module__} arrays lack; '
            'use "gelu_tanh", or pass a function.'
        )
    erf: Callable[[Array], Array] = special.erf
    return erf
