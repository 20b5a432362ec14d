"""2:4 matrices by the names of their forms, as users call them; the forms have tests of their own.

Axes: form x dtype x height of tiles. Equality is of bits.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cutlass import golden
from two_four_forms import compressed, expand, same_bits, same_values

from tvwarray import FormatError, TVWMatrix
from tvwarray._convert import from_24, to_bitmask, to_cutlass

FORMS = ("positions", "cutlass", "bitmask")


def bitmask_of(stored):
    """Return the bitmask, bit by bit."""
    rows, cols = stored.shape
    mask = np.zeros((rows, -(-cols // 8)), np.uint8)
    for r, c in np.argwhere(stored):
        mask[r, c // 8] |= 1 << c % 8
    return mask


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_what_torch_compressed_comes_in_and_goes_out(dtype):
    """The file was made by torch; see tests/data/make_cutlass_24.py."""
    dense, values, meta = (golden(dtype, part) for part in ("dense", "values", "meta"))
    A = TVWMatrix.from_24(values, meta, form="cutlass", tile_rows=16)
    same_bits(A.toarray(), dense)
    for got, expected in zip(A.to_24("cutlass"), (values, meta), strict=True):
        same_bits(got, expected)


@given(compressed(), st.sampled_from([16, 128]))
def test_positions_and_bitmasks_are_the_same_matrix(made, tile_rows):
    values, positions = made
    dense, stored = expand(values, positions)
    plain = TVWMatrix.from_24(values, positions, tile_rows=tile_rows)
    masked = TVWMatrix.from_24(values, bitmask_of(stored), form="bitmask", tile_rows=tile_rows)
    same_values(plain.toarray(), dense)
    for form in ("positions", "bitmask"):
        for got, expected in zip(masked.to_24(form), plain.to_24(form), strict=True):
            same_bits(got, expected)
    same_bits(plain.to_24()[1], positions)
    same_bits(plain.to_24("bitmask")[1], bitmask_of(stored))


@given(compressed(dtypes=["float16"], rows=32, cols=32))
def test_each_form_is_that_of_its_function(made):
    values, positions = made
    if not values.size:
        return
    A, storage = TVWMatrix.from_24(values, positions), from_24(values, positions)
    for form, function in (("cutlass", to_cutlass), ("bitmask", to_bitmask)):
        for got, expected in zip(A.to_24(form), function(storage), strict=True):
            same_bits(got, expected)
        same_bits(TVWMatrix.from_24(*A.to_24(form), form=form).toarray(), A.toarray())


def test_an_unknown_form_is_refused_with_those_there_are():
    values, positions = np.ones((4, 8)), np.tile([0, 1], (4, 4))
    for call in (
        lambda: TVWMatrix.from_24(values, positions, form="mask"),
        lambda: TVWMatrix.from_24(values, positions).to_24("mask"),
    ):
        with pytest.raises(FormatError, match="form is 'mask'; it is one of \"positions\""):
            call()


@pytest.mark.parametrize("form", FORMS)
def test_arrays_that_do_not_fit_a_form_are_refused(form):
    with pytest.raises(FormatError):
        TVWMatrix.from_24(np.ones((32, 16), np.float16), np.ones((3, 3)), form=form)
    with pytest.raises(FormatError):
        TVWMatrix.from_24(np.ones(32, np.float16), np.ones(4, np.uint8), form=form)
