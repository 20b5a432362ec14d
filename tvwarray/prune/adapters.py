"""Layer adapters: the weights of a layer as the 2-D matrices that patterns prune, and back.

Patterns know one form only, ``(outputs, inputs)``: a product is ``x @ A.T``. Frameworks keep
weights in many others. An adapter transposes, flattens and cuts, and undoes it exactly; masks and
scores go the same way as weights, since nothing here computes::

    weights (O, I, kH, kW)  --split-->  {"": (O, I * kH * kW)}  --select-->  {"": mask}
         mask (O, I, kH, kW)  <--join--      ...                       <--

Arrays of any library go through (`array_namespace`), of any dtype; they stay on their device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Final, Protocol

from tvwarray._errors import FormatError
from tvwarray._namespace import Array, array_namespace

Shape = tuple[int, ...]

Parts = Callable[[int], list[tuple[str, int, int]]]
"""From the rows of a stack to the name, the first row and the end of each part."""

_GATES: Final = {3: ("r", "z", "n"), 4: ("i", "f", "g", "o")}
_SPATIAL: Final = "DHW"


class Adapter(Protocol):
    """How a layer keeps its weights."""

    def split(self, weights: Array) -> dict[str, Array]:
        """Return the matrices of a layer, (outputs, inputs) each, by the name of the part.

        A layer that is one matrix gives it under the empty name.
        """
        ...

    def join(self, matrices: Mapping[str, Array], shape: Shape) -> Array:
        """Return the weights of shape `shape` that `split` makes these matrices of."""
        ...


@dataclass(frozen=True)
class Linear:
    """A fully connected layer.

    Parameters
    ----------
    transposed : bool
        False: (out, in), as ``torch.nn.Linear`` keeps it. True: (in, out), the ``kernel`` of Flax
        and Keras, and GPT-2's ``Conv1D``.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray.prune.adapters import Linear
    >>> Linear(transposed=True).split(np.zeros((384, 1536)))[""].shape
    (1536, 384)
    """

    transposed: bool = False

    def split(self, weights: Array) -> dict[str, Array]:
        """Return ``{"": (out, in)}``."""
        _check_rank(weights.shape, 2, "Linear weights")
        return {"": _swapped(weights) if self.transposed else weights}

    def join(self, matrices: Mapping[str, Array], shape: Shape) -> Array:
        """Return the weights of shape `shape`."""
        _check_rank(shape, 2, "Linear weights")
        rows, cols = shape[::-1] if self.transposed else shape
        (matrix,) = _checked(matrices, {"": (rows, cols)})
        return _swapped(matrix) if self.transposed else matrix


@dataclass(frozen=True)
class Conv:
    """A convolution of one, two or three dimensions, as the matrix of its im2col product.

    The columns of a matrix are ordered (input channel, depth, height, width) whatever the order of
    the weights, which is how ``torch.nn.functional.unfold`` orders patches: so that all spatial
    places of a channel lie side by side, and a tile is as wide as the whole receptive field.

    Parameters
    ----------
    order : str
        The axes of the weights: "O" outputs, "I" inputs, and spatial ones out of "DHW". "OIHW" is
        PyTorch's, "HWIO" that of JAX and TensorFlow, "OHWI" that of channels-last runtimes; "OIW",
        "WIO", "OIDHW" and so on likewise. With groups, "I" is the input channels of one group, and
        the matrix holds the rows of all: `tvwarray.conv2d` takes it so, with ``groups=``.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray.prune.adapters import Conv
    >>> Conv("HWIO").split(np.zeros((3, 3, 64, 128)))[""].shape
    (128, 576)
    """

    order: str = "OIHW"

    def __post_init__(self) -> None:
        spatial = sorted(set(self.order) - set("OI"))
        named = len(set(self.order)) == len(self.order) and {"O", "I"} <= set(self.order)
        if not named or not spatial or not set(spatial) <= set(_SPATIAL):
            raise FormatError(
                f'order is {self.order!r}; it names "O", "I" and one or more of "D", "H", "W", '
                'each once, such as "OIHW" or "HWIO".'
            )

    def split(self, weights: Array) -> dict[str, Array]:
        """Return ``{"": (O, I * kH * kW)}``."""
        _check_rank(weights.shape, len(self.order), f"{self.order} weights")
        xp = array_namespace(weights)
        outer = xp.permute_dims(weights, self._axes())
        return {"": xp.reshape(outer, (outer.shape[0], prod(outer.shape[1:])))}

    def join(self, matrices: Mapping[str, Array], shape: Shape) -> Array:
        """Return the weights of shape `shape`."""
        _check_rank(shape, len(self.order), f"{self.order} weights")
        axes = self._axes()
        rows, *inner = (shape[a] for a in axes)
        (matrix,) = _checked(matrices, {"": (rows, prod(inner))})
        xp = array_namespace(matrix)
        outer = xp.reshape(matrix, (rows, *inner))
        return xp.permute_dims(outer, tuple(axes.index(i) for i in range(len(axes))))

    def _axes(self) -> Shape:
        wanted = "OI" + "".join(a for a in _SPATIAL if a in self.order)
        return tuple(self.order.index(a) for a in wanted)


@dataclass(frozen=True)
class GateStack:
    """The stacked gates of an LSTM or a GRU, input or recurrent weights alike.

    Parameters
    ----------
    gates : int or sequence of str
        4 for an LSTM (i, f, g, o), 3 for a GRU (r, z, n), or the names in the order of the stack.
    transposed : bool
        False: (gates * hidden, in), as PyTorch. True: (in, gates * hidden), as Keras and Flax.
    separate : bool
        False: one matrix for all gates, one product at run time; a tile may mix rows of gates.
        True: a matrix for each gate, so that gates are ranked, protected and reported one by one.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray.prune.adapters import GateStack
    >>> [(n, m.shape) for n, m in GateStack(separate=True).split(np.zeros((1024, 80))).items()]
    [('i', (256, 80)), ('f', (256, 80)), ('g', (256, 80)), ('o', (256, 80))]
    """

    gates: int | tuple[str, ...] = 4
    transposed: bool = False
    separate: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.gates, int):
            if self.gates not in _GATES:
                raise FormatError(
                    f"gates is {self.gates}; it is 4 (LSTM), 3 (GRU), or their names."
                )
            object.__setattr__(self, "gates", _GATES[self.gates])

    def split(self, weights: Array) -> dict[str, Array]:
        """Return ``{"": (gates * hidden, in)}``, or ``{gate: (hidden, in)}`` if separate."""
        matrix = Linear(self.transposed).split(weights)[""]
        return {n: matrix[a:b, :] for n, a, b in self._parts(matrix.shape[0])}

    def join(self, matrices: Mapping[str, Array], shape: Shape) -> Array:
        """Return the weights of shape `shape`."""
        return _join_rows(matrices, shape, self.transposed, self._parts)

    def _parts(self, rows: int) -> list[tuple[str, int, int]]:
        assert isinstance(self.gates, tuple)
        even = _even_parts(self.gates, rows, "rows")
        return even if self.separate else [("", 0, rows)]


@dataclass(frozen=True)
class InProjection:
    """The stacked query, key and value projections of attention.

    Parameters
    ----------
    sizes : sequence of int, optional
        Rows of each of q, k and v; equal thirds by default. Grouped-query attention has fewer for k
        and v.
    transposed : bool
        False: (sum of sizes, in), as ``MultiheadAttention.in_proj_weight``. True: (in, sum), as
        GPT-2's ``c_attn``.
    interleaved_heads : int, optional
        Heads where every head keeps its own q, k and v side by side, (heads, 3, head_dim) rows, as
        ``query_key_value`` of GPT-NeoX and BLOOM.
    separate : bool
        Whether q, k and v are matrices of their own. If not, the rows stay in the stored order.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray.prune.adapters import InProjection
    >>> [(n, m.shape) for n, m in InProjection().split(np.zeros((1152, 384))).items()]
    [('q', (384, 384)), ('k', (384, 384)), ('v', (384, 384))]
    """

    sizes: tuple[int, int, int] | None = None
    transposed: bool = False
    interleaved_heads: int | None = None
    separate: bool = True

    def __post_init__(self) -> None:
        if self.interleaved_heads is not None and (self.interleaved_heads < 1 or self.sizes):
            raise FormatError("interleaved_heads is at least 1, and goes with equal sizes only.")

    def split(self, weights: Array) -> dict[str, Array]:
        """Return ``{"q": ..., "k": ..., "v": ...}``, or all under the empty name."""
        matrix = Linear(self.transposed).split(weights)[""]
        rows, cols = matrix.shape
        parts = self._parts(rows)
        if self.interleaved_heads and self.separate:
            xp, heads = array_namespace(matrix), self.interleaved_heads
            by_head = xp.reshape(matrix, (heads, 3, rows // (3 * heads), cols))
            matrix = xp.reshape(xp.permute_dims(by_head, (1, 0, 2, 3)), (rows, cols))
        return {n: matrix[a:b, :] for n, a, b in parts}

    def join(self, matrices: Mapping[str, Array], shape: Shape) -> Array:
        """Return the weights of shape `shape`."""
        if not (self.interleaved_heads and self.separate):
            return _join_rows(matrices, shape, self.transposed, self._parts)
        _check_rank(shape, 2, "attention weights")
        rows, cols = shape[::-1] if self.transposed else shape
        stacked = _join_rows(matrices, (rows, cols), False, self._parts)
        xp, heads = array_namespace(stacked), self.interleaved_heads
        by_part = xp.reshape(stacked, (3, heads, rows // (3 * heads), cols))
        matrix = xp.reshape(xp.permute_dims(by_part, (1, 0, 2, 3)), (rows, cols))
        return _swapped(matrix) if self.transposed else matrix

    def _parts(self, rows: int) -> list[tuple[str, int, int]]:
        if not self.separate:
            return [("", 0, rows)]
        if self.sizes is None:
            _even_parts([""] * (self.interleaved_heads or 1), rows, "rows")
            return _even_parts("qkv", rows, "rows")
        if sum(self.sizes) != rows:
            raise FormatError(
                f"the weights have {rows} rows; sizes {self.sizes} add up to {sum(self.sizes)}."
            )
        ends = [0, self.sizes[0], self.sizes[0] + self.sizes[1], rows]
        return [(n, a, b) for n, (a, b) in zip("qkv", pairwise(ends), strict=True)]


@dataclass(frozen=True)
class Heads:
    """A projection of attention whose heads have an axis of their own, as Flax keeps them.

    Parameters
    ----------
    out : bool
        False: (in, heads, head_dim), the kernels of query, key and value. True: (heads, head_dim,
        out), that of the output projection.
    """

    out: bool = False

    def split(self, weights: Array) -> dict[str, Array]:
        """Return ``{"": (heads * head_dim, in)}``, or ``(out, heads * head_dim)``."""
        _check_rank(weights.shape, 3, "weights by heads")
        xp = array_namespace(weights)
        return {"": _swapped(xp.reshape(weights, self._flat(weights.shape)))}

    def join(self, matrices: Mapping[str, Array], shape: Shape) -> Array:
        """Return the weights of shape `shape`."""
        _check_rank(shape, 3, "weights by heads")
        rows, cols = self._flat(shape)
        (matrix,) = _checked(matrices, {"": (cols, rows)})
        return array_namespace(matrix).reshape(_swapped(matrix), shape)

    def _flat(self, shape: Shape) -> tuple[int, int]:
        a, b, c = shape
        return (a * b, c) if self.out else (a, b * c)


def default_adapter(shape: Shape) -> Adapter:
    """Return what weights of this shape are in PyTorch's order.

    `Linear` for two dimensions, `Conv` for three, four and five.

    Raises
    ------
    FormatError
        If there is none.
    """
    if len(shape) == 2:
        return Linear()
    if 3 <= len(shape) <= 5:
        return Conv("OI" + _SPATIAL[5 - len(shape) :])
    raise FormatError(f"weights of shape {shape} have no usual form; name an adapter for them.")


def _join_rows(
    matrices: Mapping[str, Array], shape: Shape, transposed: bool, parts_of: Parts
) -> Array:
    _check_rank(shape, 2, "stacked weights")
    rows, cols = shape[::-1] if transposed else shape
    stacked = _stacked(_checked(matrices, {n: (b - a, cols) for n, a, b in parts_of(rows)}))
    return _swapped(stacked) if transposed else stacked


def _even_parts(names: Sequence[str], rows: int, what: str) -> list[tuple[str, int, int]]:
    size, rest = divmod(rows, len(names))
    if rest:
        raise FormatError(
            f"the weights have {rows} {what}, which {len(names)} parts do not share evenly."
        )
    return [(n, i * size, (i + 1) * size) for i, n in enumerate(names)]


def _checked(matrices: Mapping[str, Array], expected: Mapping[str, tuple[int, int]]) -> list[Array]:
    """Return the matrices in order if they are those that `split` gives."""
    if set(matrices) != set(expected):
        raise FormatError(
            f"the parts are {sorted(matrices)}; split() of this layer names {sorted(expected)}."
        )
    for name, shape in expected.items():
        if tuple(matrices[name].shape) != shape:
            label = f"part {name!r}" if name else "the matrix"
            raise FormatError(
                f"{label} has shape {tuple(matrices[name].shape)}; the layer needs {shape}."
            )
    return [matrices[name] for name in expected]


def _stacked(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else array_namespace(*parts).concat(parts, axis=0)


def _swapped(matrix: Array) -> Array:
    return array_namespace(matrix).permute_dims(matrix, (1, 0))


def _check_rank(shape: Shape, rank: int, what: str) -> None:
    if len(shape) != rank:
        raise FormatError(f"{what} have {rank} dimensions; these have shape {tuple(shape)}.")
