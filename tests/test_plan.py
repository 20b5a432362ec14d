"""`plan`, and the dense fallback that says so."""

from __future__ import annotations

import array_api_strict as xp
import numpy as np
import pytest
import scipy.sparse as sp

import tvwarray
from tvwarray import TVWMatrix
from tvwarray._backends import dense


@pytest.fixture
def crowded():
    """Return a dense matrix, twice its slots when spread over groups, large enough to matter."""
    return TVWMatrix(np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32))


def test_activations_are_transposed_first_where_that_is_needed() -> None:
    """`order="F"`: its cost is in the plan, and kernels that need no copy rank before others."""
    dense = np.random.default_rng(0).standard_normal((512, 1024))
    a = tvwarray.sparsify(dense, 0.75).astype(np.float16)
    for matrix, rows in ((a, 1024), (a.T, 512)):
        plain = tvwarray.plan(matrix, 4096, device="H200")
        turned = tvwarray.plan(matrix, 4096, device="H200", order="F")
        cost = 3e-6 + 2 * rows * 4096 * 2 / 4.2e12
        assert turned.gpu.seconds == pytest.approx(plain.gpu.seconds + cost)
        assert f"(transpose {1e6 * cost:.3g}, launch" in str(turned)
        assert "(transpose" not in str(plain)
    few = tvwarray.plan(a, 4, device="H200", order="F")
    assert few.gpu.choice.config.kernel == "sm80_tvw_few"
    assert "(transpose" not in str(few).splitlines()[1]
    with pytest.raises(ValueError, match="order is 'A'; it is 'C' or 'F'"):
        tvwarray.plan(a, 8, order="A")


def test_a_crowded_matrix_is_multiplied_dense_with_a_warning(crowded):
    x = np.random.default_rng(1).standard_normal((1024, 40), dtype=np.float32)
    a = crowded.toarray()
    with pytest.warns(UserWarning, match=r"dense copy of 4\.19 MB") as said:
        first = crowded @ x
    assert len(said) == 1
    np.testing.assert_array_equal(first, a @ x)
    np.testing.assert_array_equal(crowded @ x, first)  # the copy is kept, and said once
    np.testing.assert_array_equal(x.T @ crowded.T, (a @ x).T.copy())
    np.testing.assert_allclose(crowded.T @ x, a.T @ x, rtol=0, atol=1e-3)
    out = np.empty((1024, 40), np.float32)
    assert tvwarray.matmul(crowded, x, out=out) is out
    np.testing.assert_array_equal(out, first)
    chosen = tvwarray.select_backend(crowded, x)
    assert chosen.backend.name == "dense"
    assert "a dense product is predicted to be" in str(chosen)


def test_a_named_backend_is_not_replaced(crowded):
    x = np.ones((1024, 40), np.float32)
    np.testing.assert_allclose(
        tvwarray.matmul(crowded, x, backend="array"), crowded.toarray() @ x, rtol=0, atol=1e-2
    )
    small = TVWMatrix(np.eye(16))
    with pytest.warns(UserWarning, match="dense copy"):
        got = tvwarray.matmul(small, np.eye(16), backend="dense")
    np.testing.assert_array_equal(got, np.eye(16))


def test_what_pays_is_left_alone():
    W = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
    x = np.ones((1024, 40), np.float32)
    assert tvwarray.select_backend(tvwarray.sparsify(W, 0.75), x).backend.name != "dense"
    assert tvwarray.select_backend(TVWMatrix(W[:64]), x).backend.name != "dense"  # small
    halves = TVWMatrix(W.astype(np.float16))
    assert tvwarray.select_backend(halves, x.astype(np.float16)).backend.name != "dense"


def test_refusals_of_the_dense_backend():
    A = TVWMatrix(np.eye(16, dtype=np.int8))
    assert "BLAS" in dense.BACKEND.refusal(A.storage, np.ones((16, 1), np.int8))
    assert "NumPy" in dense.BACKEND.refusal(A.storage, xp.ones((16, 1)))


def test_plan_prints_backend_reasons_and_prediction(crowded):
    A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((256, 512)), 0.75)
    plan = tvwarray.plan(A, 64)
    text = str(plan)
    assert text.startswith("(256, 512) float64 @ (512, 64)")
    assert "cuda: needs CuPy arrays" in text
    assert ": selected" in text
    assert "% of the multiply-adds" in text
    assert 0.25 <= plan.stored_share < 0.27  # padding slots are stored too
    assert 0.25 < plan.predicted_share < 1
    assert tvwarray.plan(A, 1).predicted_share < plan.predicted_share
    assert tvwarray.plan(A.T, 3).shape == (512, 256)
    assert tvwarray.plan(crowded, 64).predicted_share == 1
    assert "dense: selected" in str(tvwarray.plan(crowded, 64))
    empty = tvwarray.plan(TVWMatrix((0, 4)), 2)
    assert empty.predicted_share is None
    assert "predicted" not in str(empty)
    on_device = tvwarray.plan(TVWMatrix(np.eye(16)).to_device(xp.ones(1)), 2)
    assert on_device.selection.backend.name == "array"
    assert dense.share_of_dense(A.storage, "cuda", 1) is None


def test_a_gpu_that_is_not_there_is_planned_for():
    rng = np.random.default_rng(0)
    A = tvwarray.sparsify(rng.standard_normal((1024, 1024), dtype=np.float32), 0.75)
    half = A.astype(np.float16)
    for device in ("A100", "RTX 4090", "H200", "sm_120"):
        planned = tvwarray.plan(half, 4096, device=device)
        assert planned.selection is None
        assert planned.gpu.seconds < planned.gpu.dense_seconds
        assert planned.predicted_share == planned.gpu.seconds / planned.gpu.dense_seconds
        text = str(planned)
        assert str(planned.gpu.choice.config) in text
        assert "times as long" in text
        assert "one core" not in text
    with pytest.raises(ValueError, match="device is 'abacus'; known are A100"):
        tvwarray.plan(half, device="abacus")


def test_a_plan_warns_where_dense_is_faster():
    A = TVWMatrix(np.random.default_rng(0).standard_normal((512, 512)).astype(np.float16))
    planned = tvwarray.plan(A, 4096, device="H200")
    assert planned.predicted_share > 1
    assert "WARNING, the dense product is predicted to be" in str(planned)


def test_a_plan_says_why_no_kernel_runs():
    A = TVWMatrix(np.eye(64, dtype=np.complex64))
    planned = tvwarray.plan(A, 8, device="H200")
    assert planned.gpu.seconds is None
    assert planned.predicted_share is None
    assert "H200: no kernel, tensor cores have no such products" in str(planned)


def test_a_plan_reports_what_the_remainder_costs():
    rng = np.random.default_rng(0)
    A = tvwarray.sparsify(rng.standard_normal((1024, 1024), dtype=np.float32), 0.9)
    extra = sp.random_array((1024, 1024), density=0.01, rng=rng, dtype=np.float32)
    B = A.with_remainder(sp.csr_array(extra)).astype(np.float16)
    plain, beside = (tvwarray.plan(M.astype(np.float16), 512, device="H200") for M in (A, B))
    assert beside.remainder_entries == B.storage.remainder.data.size
    added = beside.gpu.remainder_seconds
    assert added > 0
    assert beside.gpu.seconds == pytest.approx(plain.gpu.seconds + added)
    assert f"the remainder adds {1e6 * added:.3g} us (CSR)" in str(beside)
    assert f"{beside.remainder_entries:,} entries beside the tiles" in str(beside)
    assert plain.gpu.remainder_seconds == 0
    assert "remainder" not in str(plain)
