"""DLPack: what exports it is multiplied, and a matrix refuses to be exported whole."""

from __future__ import annotations

import numpy as np
import pytest

import tvwarray
from tvwarray import TVWMatrix
from tvwarray._frameworks import handler_of, native, package


class Exported:
    """A tensor of a library that nothing here knows: all it has is DLPack."""

    def __init__(self, x):
        self._x = x
        self.ndim, self.shape, self.dtype = x.ndim, x.shape, x.dtype

    def __dlpack__(self, **options):
        return self._x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._x.__dlpack_device__()


@pytest.mark.parametrize("shape", [(32,), (32, 3)])
def test_a_tensor_of_any_library_is_multiplied(shape):
    A = TVWMatrix(np.diag(np.arange(32.0)))
    x = np.arange(np.prod(shape), dtype=float).reshape(shape)
    np.testing.assert_array_equal(A @ Exported(x), A @ x)
    np.testing.assert_array_equal(Exported(x.T) @ A, x.T @ A)
    np.testing.assert_array_equal(tvwarray.matmul(A, Exported(x)), A @ x)


def test_a_matrix_is_not_exported_as_a_whole():
    A = TVWMatrix(np.eye(4))
    for export in (A.__dlpack__, A.__dlpack_device__, lambda: np.from_dlpack(A)):
        with pytest.raises(BufferError, match=r"A\.toarray\(\), or the arrays of A\.to_components"):
            export()


def test_components_are_exported_one_by_one():
    parts = TVWMatrix(np.eye(64)).to_components()
    for name, x in parts.items():
        if isinstance(x, np.ndarray):
            assert x.flags.writeable
            assert x.flags.c_contiguous
            assert x.ctypes.data % 64 == 0, name
            np.testing.assert_array_equal(np.from_dlpack(x), x)


def test_no_framework_is_imported_by_tvwarray():
    import subprocess
    import sys

    code = (
        "import sys, tvwarray, numpy as np; tvwarray.TVWMatrix(np.eye(4)) @ np.eye(4); "
        "sys.exit(bool({'torch', 'jax', 'tensorflow', 'dask', 'cupy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0


def test_arrays_of_no_framework_are_left_alone():
    x = np.ones(3)
    assert handler_of(x, None, "text") is None
    assert native(x) is x


def test_a_framework_that_is_missing_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "tvwarray.torch", raising=False)
    message = r"torch is not installed; pip install 'tvwarray\[torch\]'"
    with pytest.raises(ImportError, match=message):
        TVWMatrix(np.eye(4)).to_torch()
    with pytest.raises(ImportError, match="tvwarray"):
        package("no_such_framework")
