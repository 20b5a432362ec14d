"""Matrices in parts: every row in one part, equal work, the product of the whole."""

from __future__ import annotations

import array_api_strict as strict
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds, storages

import tvwarray
from tvwarray import FormatError, TVWMatrix


@given(storages(dtypes=["float64", "int32", "bfloat16"]), st.integers(1, 9))
def test_every_row_is_in_one_part_with_its_entries(storage, k):
    whole = TVWMatrix.from_storage(storage)
    partition = whole.partition(k)
    assert len(partition) <= k
    rebuilt = np.zeros(storage.shape)
    taken = np.zeros(storage.shape[0], int)
    for rows, matrix in partition:
        matrix.storage.check()
        assert matrix.shape == (rows.size, storage.shape[1])
        rebuilt[rows] += oracle.dense(matrix.storage).astype(float)
        taken[rows] += 1
    assert taken.max(initial=0) <= 1
    np.testing.assert_array_equal(rebuilt, oracle.dense(storage).astype(float))


@given(storages(dtypes=["int32"]), st.integers(1, 5), seeds, st.booleans())
def test_the_parts_together_are_the_product(storage, k, seed, flat):
    A = TVWMatrix.from_storage(storage)
    shape = (storage.shape[1],) if flat else (storage.shape[1], 3)
    X = np.random.default_rng(seed).integers(-5, 6, shape).astype(np.int32)
    got = A.partition(k) @ X
    expected, _ = oracle.matmul(oracle.dense(storage), X)
    np.testing.assert_array_equal(got, expected.astype(np.int32))


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_work_is_balanced(k):
    """A tall matrix of uneven tiles: no part has more than 4/3 of its share."""
    rng = np.random.default_rng(1)
    W = rng.standard_normal((2048, 256)).astype(np.float32) * np.linspace(0.1, 3, 2048)[:, None]
    A = tvwarray.sparsify(W.astype(np.float32), 0.8)
    work = [part.matrix.storage.data.size for part in A.partition(k)]
    assert len(work) == k
    assert max(work) <= 4 / 3 * sum(work) / k + 16 * 256


def test_a_single_tile_is_cut_to_share_it():
    A = TVWMatrix(np.ones((128, 32)))
    assert [len(part.rows) for part in A.partition(4)] == [32] * 4


def test_an_empty_matrix_has_no_parts_and_a_zero_product():
    partition = TVWMatrix((5, 3)).partition(4)
    assert len(partition) == 0
    np.testing.assert_array_equal(partition @ np.ones((3, 2)), np.zeros((5, 2)))


def test_rows_of_the_remainder_alone_belong_to_a_part():
    import scipy.sparse as sp

    beside = sp.csr_array(([7.0, 8.0], ([1, 4], [0, 2])), shape=(5, 3))
    A = TVWMatrix((5, 3)).with_remainder(beside)
    np.testing.assert_array_equal(A.partition(2) @ np.eye(3), beside.toarray())


def test_parts_go_to_devices_and_their_rows_come_back():
    """array-api-strict has devices of its own, which it refuses to mix."""
    W = np.random.default_rng(0).integers(-3, 4, (200, 40)).astype(np.float64)
    devices = [
        strict.asarray([0.0], device=strict.Device(name)) for name in ("CPU_DEVICE", "device1")
    ]
    partition = TVWMatrix(W).partition(4).to_devices(devices)
    assert {str(p.matrix.device) for p in partition} == {str(d.device) for d in devices}
    X = np.random.default_rng(1).integers(-3, 4, (40, 5)).astype(np.float64)
    got = partition @ strict.asarray(X)
    assert got.device == devices[0].device
    np.testing.assert_array_equal(np.asarray(got), W @ X)


def test_a_partition_is_a_sequence():
    partition = TVWMatrix(np.ones((64, 16))).partition(2)
    assert partition[0] is next(iter(partition))
    assert len(partition[:1]) == 1


def test_what_cannot_be_split_says_why():
    A = TVWMatrix(np.eye(16))
    with pytest.raises(ValueError, match=r"k is 0; a matrix has 1 part or more"):
        A.partition(0)
    with pytest.raises(FormatError, match=r"call it on A\.T"):
        A.T.partition(2)
