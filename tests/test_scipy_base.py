"""scipy's own tests of sparse arrays, run against `TVWMatrix`.

``scipy.sparse.tests.test_base`` tests every format of scipy through one class of generic tests,
which asks a subclass for nothing but a way to make a matrix. Here are four subclasses: one for
each way a matrix of this package may be stored. No generic test is left out. Those that cannot
pass are listed in `EXPECTED_FAILURES` with the reason, run all the same, and must fail: a test
that begins to pass is no exclusion any more.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import scipy
import scipy.sparse as sp

from tvwarray import TVWMatrix

MADE_FOR = "1.17"
"""The tests are part of scipy and change with it; the lists below are right for this version."""

if not scipy.__version__.startswith(f"{MADE_FOR}."):
    pytest.skip(
        f"the lists of this file are for the tests of scipy {MADE_FOR}, not {scipy.__version__}",
        allow_module_level=True,
    )
base: Any = pytest.importorskip("scipy.sparse.tests.test_base", reason="scipy has no tests here")

ASSIGNS = "assigns items: a matrix is immutable, so that it is packed once for all its products"
IDENTITY = "scipy makes an identity in the format of its argument, which only its own formats have"
PRINTS = "repr says what a tile-vector-wise matrix is; scipy's looks its own formats up by name"

EXPECTED_FAILURES = {
    "test_fancy_indexing_2d_assign": ASSIGNS,
    "test_fancy_indexing_seq_assign": ASSIGNS,
    "test_index_scalar_assign": ASSIGNS,
    "test_negative_index_assignment": ASSIGNS,
    "test_resize": ASSIGNS,
    "test_scalar_assign_2": ASSIGNS,
    "test_setdiag": ASSIGNS,
    "test_setdiag_comprehensive": ASSIGNS,
    "test_setelement": ASSIGNS,
    "test_expm": IDENTITY,
    "test_inv": IDENTITY,
    "test_repr": PRINTS,
    "test_str": PRINTS,
    "test_str_maxprint": "the number of entries that print shows is not kept with a matrix",
    "test_constructor1_base": "looks for shared arrays in __dict__; those here lie in .storage",
    "test_pickle": "compares what __dict__ holds by ==; a storage compares by identity",
    "test_dtype_check": "demands that float16 be refused, which this format holds",
    "test_minmax_axis": "reads .data, which scipy's formats without fillers have",
    "test_inplace_dense": "array *= matrix would turn an array into a sparse matrix; it is refused",
}

FOR_SOME_FORMATS = (
    "test_eq", "test_ne", "test_eq_ne_different_shapes", "test_lt", "test_gt", "test_le", "test_ge",
    "test_count_nonzero", "test_empty",
)  # fmt: skip
"""Tests that skip, or ask less of, a matrix whose format is not in a list of theirs; csr is."""

GENERIC = (
    base._TestCommon,
    base._TestGetSet,
    base._TestSolve,
    base._TestInplaceArithmetic,
    base._TestArithmetic,
    base._TestSlicing,
    base._TestFancyIndexing,
    base._TestFancyMultidim,
    base._TestMinMax,
    base._TestGetNnzAxis,
)
"""What ``sparse_test_class`` is made of, but for the three classes that only assign items."""

TESTS = {
    name: test for cls in GENERIC for name, test in vars(cls).items() if name.startswith("test_")
}

# A storage holds no long double; scipy's tests draw their dtypes from here.
base.supported_dtypes = [d for d in base.supported_dtypes if np.dtype(d).char not in "gG"]


def admitting_tvw(test: types.FunctionType) -> types.FunctionType:
    """Return `test` with "tvw" in its list of formats, so that it asks what it asks of csr."""
    code = test.__code__
    lists = [c for c in code.co_consts if isinstance(c, tuple) and "csr" in c]
    assert lists, f"{test.__name__} has no list of formats"
    consts = tuple((*c, "tvw") if c in lists else c for c in code.co_consts)
    return types.FunctionType(code.replace(co_consts=consts), test.__globals__, test.__name__)


def scipy_tests(make: Any) -> type:
    """Return a class of all generic tests for the matrices that `make` makes."""
    own: dict[str, Any] = {
        "spcreator": staticmethod(make),
        "math_dtypes": base.supported_dtypes,
    }
    for name in FOR_SOME_FORMATS:
        own[name] = admitting_tvw(TESTS[name])
    for name, reason in EXPECTED_FAILURES.items():
        test = TESTS[name]
        copy = types.FunctionType(test.__code__, test.__globals__, name, closure=test.__closure__)
        own[name] = pytest.mark.xfail(reason=reason, strict=True)(copy)
    cls = type("ScipyTests", GENERIC, own)
    cls.init_class()  # type: ignore[attr-defined]
    return cls


def beside(*args: Any, **kwargs: Any) -> TVWMatrix:
    """Return a matrix with every third of its entries in the remainder, some of them in both."""
    csr = sp.csr_array(TVWMatrix(*args, **kwargs))
    if csr.dtype == np.bool_:  # True and True add up to True
        return TVWMatrix(csr)
    coo = csr.tocoo()
    third = np.arange(coo.nnz) % 3 == 0
    rest = sp.coo_array((coo.data[third], tuple(c[third] for c in coo.coords)), coo.shape)
    return TVWMatrix(csr - rest).with_remainder(rest)


def lossless(*args: Any, **kwargs: Any) -> TVWMatrix:
    made = TVWMatrix(*args, **kwargs)
    return TVWMatrix.from_scipy(made.tocoo(), layout="lossless", tile_rows=16).astype(made.dtype)


def transposed(*args: Any, **kwargs: Any) -> TVWMatrix:
    return TVWMatrix(TVWMatrix(*args, **kwargs).T.tocsr()).T


class TestConstructor(scipy_tests(TVWMatrix)):
    pass


class TestLossless(scipy_tests(lossless)):
    pass


class TestTransposed(scipy_tests(transposed)):
    pass


class TestWithRemainder(scipy_tests(beside)):
    pass


def test_the_list_is_short():
    """csr_array passes all generic tests but one, which skips for every format."""
    assert set(TESTS) >= set(EXPECTED_FAILURES)
    assert len(EXPECTED_FAILURES) < 0.15 * (len(TESTS) - 1)
