"""Convolution against loops over output pixels, and the block-diagonal lift against its picture."""

from __future__ import annotations

import array_api_strict as xp
import numpy as np
import oracle
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import dtype, random_values, seeds, storages

import tvwarray
from tvwarray import TVWMatrix
from tvwarray._block_diagonal import block_diagonal

FLOATS = ["float16", "bfloat16", "float32", "float64", "complex64"]
SUMS = {"float16": "float32", "bfloat16": "float32"}


def convolve(x, weight, stride, before, dilation, groups, out):
    """Return the convolution and the sum of its terms' sizes, a pixel at a time."""
    x, weight = oracle.wide(x), oracle.wide(weight)
    batch, _, height, width = x.shape
    channels_out, inner, kh, kw = weight.shape
    y = np.zeros((batch, channels_out, *out), np.result_type(x, weight))
    size = np.zeros(y.shape, np.longdouble)
    for o in range(channels_out):
        first = o // (channels_out // groups) * inner
        for p in range(out[0]):
            for q in range(out[1]):
                for i in range(kh):
                    for j in range(kw):
                        r = p * stride[0] + i * dilation[0] - before[0]
                        s = q * stride[1] + j * dilation[1] - before[1]
                        if 0 <= r < height and 0 <= s < width:
                            terms = x[:, first : first + inner, r, s] * weight[o, :, i, j]
                            y[:, o, p, q] += terms.sum(axis=1)
                            size[:, o, p, q] += np.abs(terms).sum(axis=1)
    return y, size


@st.composite
def problems(draw):
    """Draw a weight, an input and how the kernel moves."""
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (7, 7), (2, 3)]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (3, 1)]))
    dilation = draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
    padding = draw(st.sampled_from([(0, 0), (1, 1), (3, 0), "same"]))
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    assume(padding != "same" or stride == (1, 1))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    before = [r // 2 for r in reach] if padding == "same" else padding
    total = reach if padding == "same" else [2 * p for p in padding]
    size = [max(1, draw(st.integers(1, 9)) + r - t) for r, t in zip(reach, total, strict=True)]
    out = [(n + t - r - 1) // s + 1 for n, t, r, s in zip(size, total, reach, stride, strict=True)]
    name = draw(st.sampled_from(FLOATS))
    inner, outer = draw(st.integers(1, 3)), groups * draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(seeds))
    weight = random_values(rng, (outer, inner, *kernel), dtype(name))
    weight = np.where(rng.random(weight.shape) < 0.4, weight, np.zeros((), weight.dtype))
    x = random_values(rng, (draw(st.integers(0, 3)), inner * groups, *size), dtype(name))
    names = ("kernel_size", "stride", "padding", "dilation", "groups")
    options = dict(zip(names, (kernel, stride, padding, dilation, groups), strict=True))
    return x, weight, options, before, tuple(out)


@given(problems(), st.sampled_from([2**28, 1]), st.booleans())
def test_convolution_error_is_bounded(problem, workspace, with_bias):
    x, weight, options, before, out = problem
    A = TVWMatrix.from_dense(weight.reshape(weight.shape[0], -1), tile_rows=16)
    exact, size = convolve(
        x, weight, options["stride"], before, options["dilation"], options["groups"], out
    )
    bias = None
    if with_bias:
        bias = np.arange(weight.shape[0]).astype(weight.dtype)
        exact = exact + oracle.wide(bias)[:, None, None]
        size = size + oracle.wide(bias)[:, None, None].real
    got = tvwarray.conv2d(x, A, **options, bias=bias, workspace=workspace)
    assert got.shape == exact.shape
    assert got.dtype == x.dtype
    sums = SUMS.get(got.dtype.name, got.dtype.name)
    terms = 4 * weight[0].size + 66  # repeated and padding slots count too
    bound = oracle.error_bound(exact, size, terms, got.dtype, sums)
    twice = oracle.UNIT_ROUNDOFF[got.dtype.name] * 1.01 * size if got.dtype.name != sums else 0
    assert (np.abs(oracle.wide(got) - exact) <= bound + twice).all()


@given(storages(dtypes=["float32", "int8"]), st.sampled_from([1, 2, 3, 5]))
def test_block_diagonal_is_the_matrix_of_its_picture(s, groups):
    assume(s.shape[0] % groups == 0)
    lifted = block_diagonal(s, groups)
    lifted.check()
    assert lifted.data.size == s.data.size
    a, (rows, cols) = oracle.dense(s), s.shape
    expected = np.zeros((rows, groups * cols), a.dtype)
    for i in range(groups):
        own = slice(i * rows // groups, (i + 1) * rows // groups)
        expected[own, i * cols : (i + 1) * cols] = a[own]
    np.testing.assert_array_equal(oracle.dense(lifted), expected)


def test_without_batch_and_by_a_number():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 4 * 9))
    A = TVWMatrix.from_dense(weight)
    x = rng.standard_normal((4, 6, 6))
    one = tvwarray.conv2d(x, A, kernel_size=3, padding=1)
    many = tvwarray.conv2d(x[None], A, kernel_size=(3, 3), padding=(1, 1))
    np.testing.assert_array_equal(one, many[0])
    assert one.shape == (8, 6, 6)


def test_activation_is_applied_after_the_bias():
    rng = np.random.default_rng(1)
    A = TVWMatrix.from_dense(rng.standard_normal((8, 4)))
    x = rng.standard_normal((2, 4, 5, 5))
    bias = rng.standard_normal(8)
    plain = tvwarray.conv2d(x, A, kernel_size=1)
    got = tvwarray.conv2d(x, A, kernel_size=1, bias=bias, activation="relu")
    np.testing.assert_allclose(got, np.maximum(plain + bias[:, None, None], 0), rtol=1e-14)


def test_other_array_libraries():
    rng = np.random.default_rng(2)
    weight = rng.integers(-3, 4, (6, 2 * 9)).astype(np.float32)
    x = rng.integers(-3, 4, (2, 4, 5, 6)).astype(np.float32)
    A = TVWMatrix.from_dense(weight)
    expected = tvwarray.conv2d(x, A, kernel_size=3, padding="same", groups=2)
    B = TVWMatrix.from_storage(A.storage.mapped(lambda a: xp.asarray(np.array(a))))
    got = tvwarray.conv2d(xp.asarray(x), B, kernel_size=3, padding="same", groups=2)
    np.testing.assert_array_equal(np.asarray(got), expected)


def test_a_lifted_weight_is_made_once():
    from tvwarray import _conv

    A = TVWMatrix.from_dense(np.random.default_rng(3).standard_normal((8, 9)))
    x = np.ones((1, 4, 5, 5))
    tvwarray.conv2d(x, A, kernel_size=3, groups=4)
    made = _conv._LIFTED[A.storage][4]
    tvwarray.conv2d(x, A, kernel_size=3, groups=4)
    assert _conv._LIFTED[A.storage][4] is made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_size": 5}, "A has 36 columns"),
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"stride": (1, 0)}, "stride is"),
        ({"padding": (1, 1, 1)}, "padding is"),
        ({"padding": "same", "stride": 2}, "needs a stride of 1"),
        ({"dilation": 4}, "covers 9 pixels of height"),
        ({"groups": 3}, "groups is 3"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    A = TVWMatrix.from_dense(np.ones((8, 36)))
    with pytest.raises(ValueError, match=message):
        tvwarray.conv2d(np.ones((1, 4, 6, 6)), A, **{"kernel_size": 3, **change})


def test_wrong_operands_are_refused():
    A = TVWMatrix.from_dense(np.ones((8, 36)))
    with pytest.raises(ValueError, match="x is a list"):
        tvwarray.conv2d([[1.0]], A, kernel_size=3)
    with pytest.raises(ValueError, match="x has 2 dimensions"):
        tvwarray.conv2d(np.ones((4, 6)), A, kernel_size=3)
    with pytest.raises(ValueError, match="A is a transpose"):
        tvwarray.conv2d(np.ones((1, 4, 6, 6)), TVWMatrix.from_dense(np.ones((36, 8))).T,
                        kernel_size=3)  # fmt: skip
