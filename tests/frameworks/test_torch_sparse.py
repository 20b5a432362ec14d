"""Components and sparse tensors of torch, there and back."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from strategies import storages  # noqa: E402

import tvwarray.torch as tvt  # noqa: E402
from tvwarray import FormatError, TVWMatrix  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR|CSC|BSC):UserWarning")
TYPES = ["float32", "float64", "bfloat16", "float16", "int8", "complex64"]


@given(storages(dtypes=[*TYPES, "float8_e4m3fn"]))
def test_components_go_there_and_back_bit_for_bit(storage):
    A = TVWMatrix.from_storage(storage)
    parts = A.to_torch()
    tensors = {name: x for name, x in parts.items() if isinstance(x, torch.Tensor)}
    assert {x.dtype for x in tensors.values()} >= {torch.int32}
    assert all(x.data_ptr() % 64 == 0 for x in tensors.values() if x.numel())
    back = TVWMatrix.from_components(**parts).storage
    for name, x in storage.arrays.items():
        if x is not None:
            assert np.asarray(getattr(back, name)).tobytes() == np.asarray(x).tobytes()


def test_components_are_writable_and_their_own():
    A = TVWMatrix(np.eye(16))
    A.to_torch()["data"].zero_()
    assert A.nnz == 16


@given(storages(dtypes=TYPES), st.sampled_from(["csr", "bsr"]))
def test_sparse_tensors_hold_the_matrix_in_its_dtype(storage, layout):
    if layout == "bsr" and (0 in storage.shape or storage.dtype.name == "bfloat16"):
        layout = "csr"
    A = TVWMatrix.from_storage(storage)
    x = A.to_torch(layout)
    assert tuple(x.shape) == A.shape
    assert tvt.to_array(x.values()).dtype == A.dtype
    back = tvt.from_torch(x)
    assert back.dtype == A.dtype
    np.testing.assert_array_equal(oracle.dense(back.storage), oracle.wide(A.toarray()))


def test_blocks_come_in_the_order_of_columns():
    """Row 0 holds a late block, row 1 an early one: scipy meets them in this order."""
    dense = np.zeros((2, 8), np.float32)
    dense[0, 6] = dense[1, 0] = 1
    x = TVWMatrix(dense).to_torch("bsr", blocksize=(2, 2))
    assert x.col_indices().tolist() == [0, 3]
    np.testing.assert_array_equal(x.to_dense(), dense)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc", "strided"])
def test_every_layout_of_torch_is_taken(layout, dtype):
    dense = torch.zeros(12, 20, dtype=dtype)
    dense[::3, ::2] = torch.arange(1, 41, dtype=dtype).reshape(4, 10)
    ways = {
        "coo": torch.Tensor.to_sparse,
        "csr": torch.Tensor.to_sparse_csr,
        "csc": torch.Tensor.to_sparse_csc,
        "bsr": lambda x: x.to_sparse_bsr((3, 4)),
        "bsc": lambda x: x.to_sparse_bsc((3, 4)),
        "strided": lambda x: x,
    }
    A = TVWMatrix(ways[layout](dense))
    assert torch.equal(tvt.to_tensor(A.toarray()), dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8])
def test_semi_structured_tensors_come_in_as_they_are(dtype):
    """Packed by PyTorch itself, as its semi-structured tensors hold values and metadata."""
    from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

    groups = np.random.default_rng(0).integers(1, 9, (64, 32, 4)) * [1, 0, -1, 0]
    dense = torch.from_numpy(groups.reshape(64, 128)).to(dtype)
    A = TVWMatrix.from_24(*sparse_semi_structured_from_dense_cutlass(dense), form="cutlass")
    assert torch.equal(tvt.to_tensor(A.toarray()), dense)


def test_triples_that_repeat_add_up():
    x = torch.sparse_coo_tensor([[1, 1], [2, 2]], [3.0, 4.0], (4, 4), check_invariants=True)
    assert TVWMatrix(x).toarray()[1, 2] == 7
    with pytest.raises(FormatError, match="is no matrix"):
        TVWMatrix(x, shape=(2, 2))


def test_what_cannot_be_converted_says_why():
    A = TVWMatrix(np.eye(16))
    with pytest.raises(ValueError, match="layout is 'coo'"):
        A.to_torch("coo")
    with pytest.raises(ValueError, match="blocks are those of layout"):
        A.to_torch("csr", blocksize=(2, 2))
    with pytest.raises(FormatError, match=r"call it on A\.T"):
        A.T.to_torch()
    with pytest.raises(TypeError, match="a matrix has 2 sparse axes"):
        TVWMatrix(torch.ones(2, 3, 4).to_sparse())
    with pytest.raises(FormatError, match="3 dimensions"):
        TVWMatrix(torch.ones(2, 3, 4))
