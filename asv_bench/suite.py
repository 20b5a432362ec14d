"""Matrices that people have: meshes, finite elements, graphs, pruned layers; and made-up extremes.

Everything is random under a seed or comes from pyamg's bundled examples and galleries; the layers
are those of the MiniLM encoder that `tvwarray demo` prunes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy.spatial import KDTree

Make = Callable[[], sp.csr_array]

EXAMPLES = (
    "airfoil", "bar", "helmholtz_2D", "knot", "local_disc_galerkin_diffusion", "recirc_flow",
    "unit_cube", "unit_square",
)  # fmt: skip
"""pyamg's bundled matrices."""


def clean(a) -> sp.csr_array:
    """Return canonical real CSR."""
    a = sp.csr_array(a)
    a = sp.csr_array((a.data.real.copy(), a.indices, a.indptr), shape=a.shape)
    a.sum_duplicates()
    a.eliminate_zeros()
    a.sort_indices()
    return a


def example(name: str) -> sp.csr_array:
    """Return one of pyamg's bundled matrices."""
    from pyamg.gallery import load_example

    return clean(load_example(name)["A"])


def airfoil_elasticity() -> sp.csr_array:
    """Return linear elasticity on the mesh around the airfoil: blocks of two unknowns."""
    from pyamg.gallery import linear_elasticity_p1, load_example

    mesh = load_example("airfoil")
    return clean(linear_elasticity_p1(mesh["vertices"], mesh["elements"])[0])


def coarse(a: sp.csr_array) -> sp.csr_array:
    """Return the second level of a multigrid hierarchy by smoothed aggregation."""
    return clean(_hierarchy(a).levels[1].A)


def prolongation(a: sp.csr_array) -> sp.csr_array:
    """Return what leads from that level back to the first: tall, a few nonzeros a row."""
    return clean(_hierarchy(a).levels[0].P)


def _hierarchy(a: sp.csr_array):
    from pyamg import smoothed_aggregation_solver

    np.random.seed(0)  # noqa: NPY002 - by which pyamg estimates a spectral radius
    return smoothed_aggregation_solver(sp.csr_matrix(a), max_levels=2)


def laplacian(sides: tuple[int, ...], boundary: str) -> sp.csr_array:
    """Return SciPy's Laplacian of a grid."""
    from scipy.sparse.linalg import LaplacianNd

    return clean(LaplacianNd(sides, boundary_conditions=boundary, dtype=np.float64).tosparse())


def poisson(*sides: int) -> sp.csr_array:
    """Return the 5- or 7-point Laplacian of a grid."""
    from pyamg.gallery import poisson as gallery

    return clean(gallery(sides, format="csr"))


def finite_elements(*sides: int) -> sp.csr_array:
    """Return the 9- or 27-point stencil of a grid of multilinear elements."""
    from pyamg.gallery import stencil_grid

    stencil = np.full((3,) * len(sides), -1.0)
    stencil[(1,) * len(sides)] = 3 ** len(sides) - 1
    return clean(stencil_grid(stencil, sides, format="csr"))


def triangles(*sides: int) -> sp.csr_array:
    """Return the Laplacian of quadratic elements on the triangles of a grid."""
    from pyamg.gallery import fem, mesh

    A, _ = fem.gradgradform(fem.Mesh(*mesh.regular_triangle_mesh(*sides), degree=2), degree=2)
    return clean(A)


def advection(side: int) -> sp.csr_array:
    """Return upwind differences of a flow through a square: lower triangular."""
    from pyamg.gallery import advection_2d

    return clean(advection_2d((side, side))[0])


def rotated_diffusion(*sides: int) -> sp.csr_array:
    """Return a 9-point stencil of diffusion that is strong in one direction, not an axis."""
    from pyamg.gallery import diffusion_stencil_2d, stencil_grid

    stencil = diffusion_stencil_2d(epsilon=0.01, theta=np.pi / 6, type="FE")
    return clean(stencil_grid(stencil, sides, format="csr"))


def elasticity(side: int) -> sp.csr_array:
    """Return plane linear elasticity on a square: blocks of two unknowns."""
    from pyamg.gallery import linear_elasticity

    return clean(linear_elasticity((side, side))[0])


def block_mesh(block: int, *sides: int) -> sp.csr_array:
    """Return a 9-point mesh of dense blocks: several unknowns at each point."""
    rng = np.random.default_rng(block)
    a = sp.csr_array(sp.kron(finite_elements(*sides), np.ones((block, block)), format="csr"))
    a.data *= rng.standard_normal(a.data.size)
    return clean(a)


def shuffled(a: sp.csr_array, seed: int = 0) -> sp.csr_array:
    """Renumber the unknowns at random."""
    order = np.random.default_rng(seed).permutation(a.shape[0])
    return clean(a[order][:, order])


def unstructured(rows: int, cols: int, sparsity: float, seed: int = 0) -> sp.csr_array:
    """Return entries anywhere with equal chance."""
    rng = np.random.default_rng(seed)
    keep = rng.random((rows, cols)) < 1 - sparsity
    return clean(np.where(keep, rng.standard_normal((rows, cols)), 0))


def scattered(rows: int, per_row: int, seed: int = 0) -> sp.csr_array:
    """Return a hypersparse square matrix with columns drawn at random."""
    rng = np.random.default_rng(seed)
    i = np.repeat(np.arange(rows), per_row)
    j = rng.integers(0, rows, i.size)
    return clean(sp.coo_array((rng.standard_normal(i.size), (i, j)), shape=(rows, rows)))


def rmat(scale: int, per_row: int = 8, seed: int = 0) -> sp.csr_array:
    """Return a recursive-matrix graph, as Graph500 makes them, with vertices renumbered."""
    rng = np.random.default_rng(seed)
    n = 1 << scale
    i = np.zeros(n * per_row, np.int64)
    j = np.zeros(n * per_row, np.int64)
    for _ in range(scale):
        u = rng.random(i.size)
        i = 2 * i + (u >= 0.76)
        j = 2 * j + (((u >= 0.57) & (u < 0.76)) | (u >= 0.95))
    order = rng.permutation(n)
    values = rng.standard_normal(i.size)
    return clean(sp.coo_array((values, (order[i], order[j])), shape=(n, n)))


def preferential(n: int, per_vertex: int = 8, seed: int = 0) -> sp.csr_array:
    """Return a Barabasi-Albert graph: a new vertex takes ends of random earlier edges."""
    rng = np.random.default_rng(seed)
    ends = np.empty(2 * n * per_vertex, np.int64)
    ends[: 2 * per_vertex] = np.arange(2 * per_vertex) % (per_vertex + 1)
    filled = 2 * per_vertex
    for vertex in range(per_vertex + 1, n):
        chosen = ends[rng.integers(0, filled, per_vertex)]
        ends[filled : filled + per_vertex] = chosen
        ends[filled + per_vertex : filled + 2 * per_vertex] = vertex
        filled += 2 * per_vertex
    a, b = ends[:filled].reshape(-1, 2, per_vertex).transpose(1, 0, 2).reshape(2, -1)
    both = np.concatenate([a, b]), np.concatenate([b, a])
    return clean(sp.coo_array((np.ones(both[0].size), both), shape=(n, n)))


def communities(n: int, count: int, inside: float = 0.12, seed: int = 0) -> sp.csr_array:
    """Return a graph of communities with a few edges between them, vertices in any order."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, count, n)
    rows, cols = [rng.integers(0, n, 2 * n)], [rng.integers(0, n, 2 * n)]
    for c in range(count):
        members = np.flatnonzero(label == c)
        i, j = np.nonzero(rng.random((members.size, members.size)) < inside)
        rows.append(members[i])
        cols.append(members[j])
    both = np.concatenate(rows), np.concatenate(cols)
    return clean(sp.coo_array((np.ones(both[0].size), both), shape=(n, n)))


def small_world(n: int, per_side: int, rewired: float, seed: int = 0) -> sp.csr_array:
    """Return a Watts-Strogatz graph: neighbours on a ring, some edges led elsewhere."""
    rng = np.random.default_rng(seed)
    i = np.repeat(np.arange(n), per_side)
    j = (i + np.tile(np.arange(1, per_side + 1), n)) % n
    j = np.where(rng.random(i.size) < rewired, rng.integers(0, n, i.size), j)
    both = np.concatenate([i, j]), np.concatenate([j, i])
    return clean(sp.coo_array((np.ones(both[0].size), both), shape=(n, n)))


def geometric(n: int, radius: float, seed: int = 0) -> sp.csr_array:
    """Return the graph of points of a square that are near each other, in any order."""
    points = np.random.default_rng(seed).random((n, 2))
    ends = KDTree(points).query_pairs(radius, output_type="ndarray").T
    both = np.concatenate([ends, ends[::-1]], axis=1)
    return clean(sp.coo_array((np.ones(both.shape[1]), tuple(both)), shape=(n, n)))


def ratings(users: int, items: int, most: int, seed: int = 0) -> sp.csr_array:
    """Return users by items: up to `most` ratings each, of popular items more than of others."""
    rng = np.random.default_rng(seed)
    i = np.repeat(np.arange(users), rng.integers(1, most + 1, users))
    popularity = 1 / np.arange(1, items + 1)
    j = rng.permutation(items)[rng.choice(items, i.size, p=popularity / popularity.sum())]
    values = rng.integers(1, 6, i.size).astype(np.float64)
    return clean(sp.coo_array((values, (i, j)), shape=(users, items)))


def noisy_blocks(n: int, block: int, *, shuffle: bool, seed: int = 0) -> sp.csr_array:
    """Return dense diagonal blocks with single entries all over, perhaps hidden by renumbering."""
    rng = np.random.default_rng(seed)
    keep = rng.random((n, n)) < 0.001
    for i in range(0, n, block):
        keep[i : i + block, i : i + block] = True
    a = clean(np.where(keep, rng.standard_normal((n, n)), 0))
    return shuffled(a, seed) if shuffle else a


def banded(n: int, half: int, seed: int = 0) -> sp.csr_array:
    """Return all diagonals up to `half` away from the main one."""
    rng = np.random.default_rng(seed)
    offsets = range(-half, half + 1)
    lines = [rng.standard_normal(n - abs(k)) for k in offsets]
    return clean(sp.diags_array(lines, offsets=list(offsets)))


def two_four(n: int, seed: int = 0) -> sp.csr_array:
    """Return a matrix that is 2:4 as it stands."""
    rng = np.random.default_rng(seed)
    rank = rng.random((n, n // 4, 4)).argsort(axis=-1).argsort(axis=-1)
    return clean((rank < 2).reshape(n, n) * rng.standard_normal((n, n)))


def tvw(rows: int, cols: int, sparsity: float, tile_rows: int = 64, seed: int = 0) -> sp.csr_array:
    """Return a matrix pruned to tile-vector-wise sparsity in natural order."""
    import tvwarray

    W = np.random.default_rng(seed).standard_normal((rows, cols))
    options = {"tile_rows": tile_rows, "permute": False, "group_rows": False}
    return clean(tvwarray.sparsify(W, sparsity, **options).tocsr())


def layers(weights: str | None = None) -> dict[str, np.ndarray]:
    """Return the weights of the encoder's linear layers, float32 (out_features, in_features)."""
    from safetensors import safe_open

    from tvwarray._cli.weights import find_weights

    with safe_open(find_weights(weights), "np") as file:
        names = [k for k in file.keys() if "encoder" in k and k.endswith("weight")]  # noqa: SIM118
        found = {k: file.get_tensor(k) for k in sorted(names)}
    short = {k: k.replace("encoder.layer.", "L").replace(".weight", "") for k in found}
    return {short[k]: w for k, w in found.items() if w.ndim == 2}


def magnitude_pruned(w: np.ndarray, sparsity: float) -> sp.csr_array:
    """Keep the largest weights wherever they are."""
    least = np.quantile(np.abs(w), sparsity)
    return clean(np.where(np.abs(w) >= least, w, 0))
