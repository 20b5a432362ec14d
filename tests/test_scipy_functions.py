"""scipy's functions and solvers on a `TVWMatrix`, against what they make of a `csr_array`.

Axes: random matrices and pyamg's, real and complex, the matrix and its transpose, with and without
registration (older versions of scipy have no register).
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.csgraph as csgraph
import scipy.sparse.linalg as sla

from tvwarray import TVWMatrix

REGISTERS = sp.issparse(TVWMatrix((1, 1)))
registered = pytest.mark.skipif(
    not REGISTERS, reason="scipy registers foreign sparse matrices from version 1.17"
)


def random_matrix(kind: str = "float64", n: int = 120) -> sp.csr_array:
    """Return a well-conditioned unsymmetric matrix."""
    rng = np.random.default_rng(7)
    csr = sp.random_array((n, n), density=0.04, rng=rng, data_sampler=rng.standard_normal)
    if kind.startswith("complex"):
        csr = csr + 1j * sp.random_array((n, n), density=0.04, rng=rng)
    return (csr + 8 * sp.eye_array(n)).tocsr().astype(kind)


def pyamg_matrix(name: str) -> sp.csr_array:
    gallery = pytest.importorskip("pyamg.gallery", reason="pyamg is not installed")
    if name == "poisson":
        made = gallery.poisson((14, 14), format="csr")
    elif name == "anisotropic":
        stencil = gallery.diffusion_stencil_2d(epsilon=0.01, theta=np.pi / 6, type="FE")
        made = gallery.stencil_grid(stencil, (14, 14), format="csr")
    elif name == "elasticity":
        made = gallery.linear_elasticity((7, 7))[0].tocsr()
    else:
        made = gallery.load_example(name)["A"].tocsr()
    return sp.csr_array(made)


SYMMETRIC = ["poisson", "anisotropic", "elasticity", "airfoil", "knot"]
MATRICES = ["random", "complex", "unit_square", "recirc_flow", *SYMMETRIC]


def matrix(name: str) -> sp.csr_array:
    if name in ("random", "complex"):
        return random_matrix("complex128" if name == "complex" else "float64")
    return pyamg_matrix(name)


@pytest.fixture(scope="module", params=MATRICES)
def pair(request: pytest.FixtureRequest) -> tuple[TVWMatrix, sp.csr_array]:
    """A matrix in both forms; the first is the transpose of what it stores for every other one."""
    csr = matrix(request.param)
    stored = MATRICES.index(request.param) % 2
    return (TVWMatrix(csr.T).T if stored else TVWMatrix(csr)), csr


@pytest.fixture(scope="module", params=["random", *SYMMETRIC])
def definite(request: pytest.FixtureRequest) -> tuple[TVWMatrix, sp.csr_array]:
    """A symmetric positive definite matrix in both forms."""
    csr = matrix(request.param)
    csr = (csr @ csr.T if request.param == "random" else csr).tocsr()
    return TVWMatrix(csr), csr


def right_side(csr: sp.csr_array) -> np.ndarray:
    rng = np.random.default_rng(3)
    return csr @ rng.standard_normal(csr.shape[0]).astype(csr.dtype)


def check_solutions(solve: Any, A: TVWMatrix, csr: sp.csr_array) -> None:
    b = right_side(csr)
    mine, theirs = solve(A, b), solve(csr, b)
    for x in (mine, theirs):  # that of csr too: agreeing on nonsense would prove nothing
        assert np.linalg.norm(csr @ x - b) <= 1e-7 * np.linalg.norm(b)
    np.testing.assert_allclose(mine, theirs, atol=1e-5 * abs(theirs).max())


@pytest.mark.parametrize("solver", ["gmres", "bicgstab", "lsqr", "lsmr"])
def test_solvers(pair, solver):
    solvers = {
        "gmres": lambda A, b: sla.gmres(A, b, rtol=1e-10, restart=len(b))[0],
        "bicgstab": lambda A, b: sla.bicgstab(A, b, rtol=1e-10)[0],
        "lsqr": lambda A, b: sla.lsqr(A, b, atol=1e-12, btol=1e-12, iter_lim=20_000)[0],
        "lsmr": lambda A, b: sla.lsmr(A, b, atol=1e-12, btol=1e-12, maxiter=20_000)[0],
    }
    check_solutions(solvers[solver], *pair)


@pytest.mark.parametrize("solver", [sla.cg, sla.minres])
def test_symmetric_solvers(definite, solver):
    check_solutions(lambda A, b: solver(A, b, rtol=1e-11)[0], *definite)


def test_symmetric_eigenvalues(definite):
    A, csr = definite
    v0 = np.ones(csr.shape[0])
    mine, vectors = sla.eigsh(A, k=4, v0=v0)
    np.testing.assert_allclose(mine, sla.eigsh(csr, k=4, v0=v0)[0], rtol=1e-8)
    np.testing.assert_allclose(csr @ vectors, vectors * mine, atol=1e-6 * abs(mine).max())


def test_eigenvalues(pair):
    A, csr = pair
    v0 = np.ones(csr.shape[0], csr.dtype)
    mine = np.sort_complex(sla.eigs(A, k=4, v0=v0, tol=1e-10)[0])
    theirs = np.sort_complex(sla.eigs(csr, k=4, v0=v0, tol=1e-10)[0])
    np.testing.assert_allclose(abs(mine), abs(theirs), rtol=1e-6)


def test_singular_values(pair):
    A, csr = pair
    v0 = np.ones(csr.shape[0], csr.dtype)
    u, values, vh = sla.svds(A, k=3, v0=v0)
    np.testing.assert_allclose(np.sort(values), np.sort(sla.svds(csr, k=3, v0=v0)[1]), rtol=1e-8)
    np.testing.assert_allclose(csr @ vh.conj().T, u * values, atol=1e-6 * values.max())


def test_linear_operators(pair):
    A, csr = pair
    rng = np.random.default_rng(5)
    x = rng.standard_normal(csr.shape[0]).astype(csr.dtype)
    if csr.dtype.kind == "c":
        x = x * (1 + 2j)
    X = np.stack([x, 2 * x, -x], axis=1)
    operator, adjoint = sla.aslinearoperator(A), csr.conj().T
    bound = 1e-12 * abs(csr).max() * csr.shape[0]
    for got, expected in (
        (A.matvec(x), csr @ x),
        (A.rmatvec(x), adjoint @ x),
        (A.matmat(X), csr @ X),
        (A.rmatmat(X), adjoint @ X),
        (operator.matvec(x), csr @ x),
        (operator.rmatvec(x), adjoint @ x),
        (operator @ X, csr @ X),
        (operator.H @ X, adjoint @ X),
    ):
        np.testing.assert_allclose(got, expected, atol=bound)
    assert operator.dtype == csr.dtype


@registered
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
def test_direct_solvers_and_norms(pair):
    _, csr = pair
    csr = (csr + 0.1 * abs(csr).max() * sp.eye_array(csr.shape[0])).tocsr()  # some are singular
    A = TVWMatrix(csr)
    check_solutions(sla.spsolve, A, csr)
    check_solutions(lambda A, b: sla.splu(A).solve(b), A, csr)
    check_solutions(lambda A, b: sla.factorized(A)(b), A, csr)
    for order in ("fro", 1, np.inf):
        assert sla.norm(A, order) == pytest.approx(sla.norm(csr, order))
    np.testing.assert_allclose(sla.norm(A, axis=1), sla.norm(csr, axis=1))
    lower = sp.tril(A)
    b = np.ones(csr.shape[0])
    np.testing.assert_allclose(
        sla.spsolve_triangular(lower, b), sla.spsolve_triangular(sp.tril(csr).tocsr(), b)
    )


@registered
def test_construction():
    csr = random_matrix(n=30)[:20]
    A = TVWMatrix(csr)
    square = TVWMatrix(csr[:, :20])
    for call in (
        lambda A, _: sp.csr_array(A),
        lambda A, _: sp.csc_array(A),
        lambda A, _: sp.coo_array(A),
        lambda A, _: sp.bsr_array(A),
        lambda A, _: sp.dia_array(A),
        lambda A, _: sp.lil_array(A),
        lambda A, _: sp.dok_array(A),
        lambda A, _: sp.hstack([A, A]),
        lambda A, _: sp.vstack([A, A], format="csr"),
        lambda A, S: sp.block_array([[A, S], [A, None]]),
        lambda A, _: sp.block_diag([A, A]),
        lambda A, _: sp.kron(A, [[1, 2]]),
        lambda A, _: sp.kron(np.eye(2), A),
        lambda _, S: sp.kronsum(S, S),
        lambda A, _: sp.tril(A),
        lambda A, _: sp.triu(A, 1),
    ):
        got, expected = call(A, square), call(csr, csr[:, :20])
        np.testing.assert_array_equal(got.toarray(), expected.toarray())
        assert isinstance(got, sp.sparray)
    for got, expected in zip(sp.find(A), sp.find(csr), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert isinstance(A, sp.sparray)
    assert sp.issparse(A.T)


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"])
def test_operands_of_every_format(format):
    csr = random_matrix(n=24)
    A = TVWMatrix(csr)
    other = (csr.T * 2).asformat(format)
    b, a = other.toarray(), csr.toarray()
    for got, expected in (
        (other @ A, b @ a),
        (A @ other, a @ b),
        (other @ A.T, b @ a.T),
        (A.T @ other, a.T @ b),
        (other + A, a + b),
        (A + other, a + b),
        (other - A, b - a),
        (A - other, a - b),
        (other * A, a * b),
        (A * other, a * b),
        (A @ A, a @ a),
        (other != A, a != b),
        (other != A, a != b),
        (A.dot(other), a @ b),
    ):
        assert sp.issparse(got)
        np.testing.assert_allclose(got.toarray(), expected, atol=1e-12)
    old = sp.csr_matrix(csr).asformat(format)
    for got, expected in ((old @ A, a @ a), (A @ old, a @ a), (old * A, a @ a), (A * old, a * a)):
        np.testing.assert_allclose(got.toarray(), expected, atol=1e-12)
    with pytest.raises(ValueError, match="dimension mismatch"):
        A @ sp.eye_array(7)


@registered
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("name", ["random", "poisson"])
def test_graphs(name):
    csr = abs(matrix(name))
    A = TVWMatrix(csr)
    for call in (
        lambda A: csgraph.connected_components(A)[1],
        lambda A: csgraph.shortest_path(A, indices=[0, 5]),
        lambda A: csgraph.minimum_spanning_tree(A).toarray(),
        lambda A: csgraph.laplacian(A.astype(float)).toarray(),
        lambda A: csgraph.breadth_first_order(A, 0)[0],
        lambda A: csgraph.reverse_cuthill_mckee(A.tocsr()),
        lambda A: csgraph.structural_rank(A),
    ):
        np.testing.assert_array_equal(call(A), call(csr))


WITHOUT = """
import sys, types
import numpy as np, scipy.sparse as sp, scipy.sparse.linalg as sla

name = "scipy._lib._sparse"
register, sys.modules[name] = sys.modules.get(name), types.ModuleType(name)  # as before 1.17
from tvwarray import TVWMatrix
if register is not None:
    sys.modules[name] = register

rng = np.random.default_rng(0)
csr = (sp.random_array((40, 40), density=0.1, rng=rng) + 4 * sp.eye_array(40)).tocsr()
A, b, a = TVWMatrix(csr), csr @ np.ones(40), csr.toarray()
assert not sp.issparse(A) and isinstance(A, sp.sparray)
for got, expected in (
    (csr @ A, a @ a), (A @ csr, a @ a), (csr + A, 2 * a), (A - csr, 0 * a), (csr - A, 0 * a),
    (csr * A, a * a), (A * csr, a * a), (csr != A, a != a), (A @ A, a @ a), (A + A, 2 * a),
    (sp.csr_matrix(csr) * A, a @ a), (A[3:5], a[3:5]), (TVWMatrix(A), a),
    (sp.csr_array(A.tocsr()), a), (sp.hstack([A.tocsr()]), a),
):
    np.testing.assert_allclose(got.toarray(), expected, atol=1e-12)
for solve in (sla.cg, sla.gmres, sla.bicgstab):
    np.testing.assert_allclose(solve(A, b, rtol=1e-10)[0], solve(csr, b, rtol=1e-10)[0], atol=1e-6)
np.testing.assert_allclose(sla.lsqr(A, b)[0], np.ones(40), atol=1e-4)
np.testing.assert_allclose(sla.svds(A, k=2)[1], sla.svds(csr, k=2)[1])
np.testing.assert_allclose(sla.aslinearoperator(A).rmatvec(b), a.T @ b)
print("works")
"""


def test_without_a_register():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.stdout == "works\n", done.stderr
