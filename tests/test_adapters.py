"""Layer adapters: where every entry goes, and that all of it comes back.

The oracle numbers the entries of the weights and follows single indices in plain loops. Axes of the
tests: kind of layer, order of axes, parts, dtype (weights and masks), array library,
contiguity.
"""

from __future__ import annotations

from itertools import permutations

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvwarray
from tvwarray import FormatError
from tvwarray.prune.adapters import (
    Conv,
    GateStack,
    Heads,
    InProjection,
    Linear,
    default_adapter,
)

ORDERS = [
    "".join(order)
    for axes in ("OIW", "OIHW", "OIDHW")
    for order in permutations(axes)
    if axes != "OIDHW" or order[0] == "O" or order[-1] == "O"
]


@st.composite
def layers(draw):
    """Return an adapter and a shape it takes."""
    small = st.integers(1, 4)
    kind = draw(st.sampled_from(["linear", "conv", "gates", "in", "grouped", "heads"]))
    flip, separate = draw(st.booleans()), draw(st.booleans())
    if kind == "conv":
        order = draw(st.sampled_from(ORDERS))
        return Conv(order), tuple(draw(small) for _ in order)
    if kind == "heads":
        return Heads(out=flip), (draw(small), draw(small), draw(small))
    if kind == "grouped":
        sizes = (draw(small), draw(small), draw(small))
        adapter, rows = InProjection(sizes, flip, separate=separate), sum(sizes)
    elif kind == "in":
        heads = draw(st.one_of(st.none(), small))
        rows = 3 * (heads or 1) * draw(small)
        adapter = InProjection(None, flip, heads, separate)
    elif kind == "gates":
        gates = draw(st.sampled_from([3, 4, ("a", "b")]))
        rows = draw(small) * (gates if isinstance(gates, int) else len(gates))
        adapter = GateStack(gates, flip, separate)
    else:
        adapter, rows = Linear(flip), draw(small)
    shape = (rows, draw(small))
    return adapter, shape[::-1] if flip else shape


@given(layers(), st.sampled_from([np.float32, np.bool_, ml_dtypes.bfloat16]), st.booleans())
def test_round_trip(layer, dtype, strided):
    adapter, shape = layer
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 2, shape).astype(dtype)
    if strided:
        weights = np.repeat(weights, 2, axis=-1)[..., ::2]
    parts = adapter.split(weights)
    assert all(m.ndim == 2 for m in parts.values())
    assert sum(m.size for m in parts.values()) == weights.size
    back = adapter.join(parts, shape)
    assert back.dtype == weights.dtype
    np.testing.assert_array_equal(back, weights)


@given(layers())
def test_array_library_of_the_caller(layer):
    adapter, shape = layer
    weights = array_api_strict.reshape(array_api_strict.arange(np.prod(shape).item()), shape)
    parts = adapter.split(weights)
    back = adapter.join(parts, shape)
    assert type(back) is type(weights)
    assert array_api_strict.all(back == weights)


@pytest.mark.parametrize("order", ["OIHW", "HWIO", "OHWI", "WIO", "DHWIO"])
def test_columns_of_a_convolution_are_those_of_unfold(order):
    sizes = {"O": 4, "I": 3, "D": 2, "H": 3, "W": 2}
    shape = tuple(sizes[a] for a in order)
    weights = np.arange(np.prod(shape)).reshape(shape)
    matrix = Conv(order).split(weights)[""]
    spatial = [a for a in "DHW" if a in order]
    for index in np.ndindex(shape):
        at = dict(zip(order, index, strict=True))
        col = at["I"]
        for a in spatial:
            col = col * sizes[a] + at[a]
        assert matrix[at["O"], col] == weights[index]


@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d_takes_the_matrix_of_an_adapter(groups):
    """Each output of `conv2d` is the sum of products that defines a convolution."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-9, 9, (4, 3, 2, 2)).astype(np.float64)
    image = rng.integers(-9, 9, (1, 3 * groups, 4, 4)).astype(np.float64)
    A = tvwarray.TVWMatrix(Conv().split(weights)[""])
    got = tvwarray.conv2d(image, A, kernel_size=2, groups=groups)
    for o, y, x in np.ndindex(4, 3, 3):
        first = 3 * (o * groups // 4)
        patch = image[0, first : first + 3, y : y + 2, x : x + 2]
        assert got[0, o, y, x] == (weights[o] * patch).sum()


@pytest.mark.parametrize("transposed", [False, True])
def test_gates_and_projections_are_rows_of_the_stack(transposed):
    stack = np.arange(12 * 5).reshape(12, 5)
    stored = stack.T if transposed else stack
    gates = GateStack(("i", "f", "g", "o"), transposed, separate=True).split(stored)
    assert list(gates) == list("ifgo")
    np.testing.assert_array_equal(gates["g"], stack[6:9])
    assert list(GateStack(3, separate=True).split(stack)) == list("rzn")
    np.testing.assert_array_equal(GateStack(4, transposed).split(stored)[""], stack)
    parts = InProjection((8, 2, 2), transposed).split(stored)
    np.testing.assert_array_equal(parts["k"], stack[8:10])


def test_interleaved_heads():
    """Two heads of size two: rows are q0 q1 k0 k1 v0 v1 of head 0, then of head 1."""
    stack = np.arange(12)[:, None]
    parts = InProjection(interleaved_heads=2).split(stack)
    assert parts["q"].ravel().tolist() == [0, 1, 6, 7]
    assert parts["k"].ravel().tolist() == [2, 3, 8, 9]
    assert parts["v"].ravel().tolist() == [4, 5, 10, 11]
    whole = InProjection(interleaved_heads=2, separate=False).split(stack)[""]
    np.testing.assert_array_equal(whole, stack)


def test_heads():
    kernel = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    rows = Heads().split(kernel)[""]
    into = Heads(out=True).split(kernel)[""]
    for i, h, d in np.ndindex(2, 3, 4):
        assert rows[h * 4 + d, i] == kernel[i, h, d]
        assert into[d, i * 3 + h] == kernel[i, h, d]


def test_default_adapter():
    assert default_adapter((4, 5)) == Linear()
    assert default_adapter((4, 5, 3)) == Conv("OIW")
    assert default_adapter((4, 5, 3, 3)) == Conv("OIHW")
    assert default_adapter((4, 5, 3, 3, 3)) == Conv("OIDHW")
    with pytest.raises(FormatError, match=r"shape \(7,\) have no usual form"):
        default_adapter((7,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Conv("OIHX"), "order is 'OIHX'"),
        (lambda: Conv("OI"), "each once"),
        (lambda: Conv("OIHH"), "each once"),
        (lambda: Conv().join({"": np.ones((4, 3))}, (4, 3, 2, 2)), r"the layer needs \(4, 12\)"),
        (lambda: Conv().split(np.ones((4, 3))), "OIHW weights have 4 dimensions"),
        (lambda: Linear().split(np.ones(4)), "Linear weights have 2 dimensions"),
        (lambda: Linear().join({"": np.ones((3, 4))}, (4, 3)), r"the layer needs \(4, 3\)"),
        (lambda: Linear().join({"q": np.ones((3, 4))}, (3, 4)), r"the parts are \['q'\]"),
        (lambda: GateStack(5), "gates is 5"),
        (lambda: GateStack(separate=True).split(np.ones((6, 2))), "6 rows, which 4 parts"),
        (lambda: InProjection((1, 1, 1)).split(np.ones((6, 2))), "add up to 3"),
        (lambda: InProjection(interleaved_heads=0), "at least 1"),
        (lambda: InProjection((1, 1, 1), interleaved_heads=2), "equal sizes only"),
        (lambda: InProjection(interleaved_heads=4).split(np.ones((6, 2))), "4 parts do not share"),
        (lambda: Heads().join({"": np.ones((2, 2))}, (2, 2)), "3 dimensions"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(FormatError, match=message):
        call()
