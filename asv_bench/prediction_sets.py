"""The matrices that the CPU model of `tvwarray.analyze` is fitted to and checked with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import scipy.sparse as sp
import suite

Matrices = dict[str, Callable[[], sp.csr_array]]
"""What makes a matrix, by its name."""


def fitted(weights: str | None) -> Matrices:
    """Return the matrices that the terms of the model were chosen by, and its rates fitted to."""
    layers = suite.layers(weights)

    def pruned(name: str, sparsity: float) -> Callable[[], sp.csr_array]:
        return lambda: suite.magnitude_pruned(layers[name], sparsity)

    return {
        "random 50 %, 1024": partial(suite.unstructured, 1024, 1024, 0.5),
        "random 75 %, 1024": partial(suite.unstructured, 1024, 1024, 0.75),
        "random 75 %, 2048": partial(suite.unstructured, 2048, 2048, 0.75, 5),
        "random 90 %, 1024": partial(suite.unstructured, 1024, 1024, 0.9),
        "random 90 %, 2048 x 768": partial(suite.unstructured, 2048, 768, 0.9),
        "random 95 %, 2048": partial(suite.unstructured, 2048, 2048, 0.95),
        "random 99 %, 4096": partial(suite.unstructured, 4096, 4096, 0.99),
        "random 99.8 %, 6000": partial(suite.unstructured, 6000, 6000, 0.998),
        "TVW 50 %, 1024 x 2048": partial(suite.tvw, 1024, 2048, 0.5, 128),
        "TVW 75 %, 384": partial(suite.tvw, 384, 384, 0.75, 128),
        "TVW 75 %, 1024": partial(suite.tvw, 1024, 1024, 0.75, 64),
        "TVW 90 %, 1024 x 4096": partial(suite.tvw, 1024, 4096, 0.9, 128),
        "5-point, 200 x 200": partial(suite.poisson, 200, 200),
        "5-point, 90 x 90": partial(suite.poisson, 90, 90),
        "9-point, 150 x 150": partial(suite.finite_elements, 150, 150),
        "7-point, 28^3": partial(suite.poisson, 28, 28, 28),
        "27-point, 25^3": partial(suite.finite_elements, 25, 25, 25),
        "27-point renumbered, 20^3": lambda: suite.shuffled(suite.finite_elements(20, 20, 20)),
        "band of 21, 8000": partial(suite.banded, 8000, 10),
        "band of 61, 4000": partial(suite.banded, 4000, 30),
        "community graph, 4096": partial(suite.communities, 4096, 32),
        "RMAT, 8192": partial(suite.rmat, 13, 8, 7),
        "Barabasi-Albert, 10000": partial(suite.preferential, 10_000, 6, 7),
        "scattered, 20000": partial(suite.scattered, 20_000, 8, 7),
        "scattered, 40000": partial(suite.scattered, 40_000, 5, 7),
        "scattered, 100000": partial(suite.scattered, 100_000, 3, 7),
        "RMAT, 32768": partial(suite.rmat, 15, 4, 7),
        "27-point, 29^3": partial(suite.finite_elements, 29, 29, 29),
        "noisy blocks of 32, 2048": partial(suite.noisy_blocks, 2048, 32, shuffle=False, seed=7),
        "elasticity, 60 x 60": partial(suite.elasticity, 60),
        "5-point, 12 x 12": partial(suite.poisson, 12, 12),
        "27-point, 6^3": partial(suite.finite_elements, 6, 6, 6),
        "random 90 %, 200": partial(suite.unstructured, 200, 200, 0.9),
        "5-point, 8 x 8": partial(suite.poisson, 8, 8),
        "random 80 %, 100": partial(suite.unstructured, 100, 100, 0.8, 5),
        "random 70 %, 500 x 300": partial(suite.unstructured, 500, 300, 0.7, 5),
        "random 98 %, 2300 x 2900": partial(suite.unstructured, 2300, 2900, 0.98, 5),
        "community graph, 6000": partial(suite.communities, 6000, 40, 0.15, 5),
        "elasticity, 90 x 90": partial(suite.elasticity, 90),
        "blocks of 2, 600": partial(suite.block_mesh, 2, 15, 20),
        "blocks of 3, 540": partial(suite.block_mesh, 3, 12, 15),
        "blocks of 4, 480": partial(suite.block_mesh, 4, 10, 12),
        "blocks of 8, 800": partial(suite.block_mesh, 8, 10, 10),
        "blocks of 3, 3600": partial(suite.block_mesh, 3, 20, 60),
        "blocks of 4, 4000": partial(suite.block_mesh, 4, 20, 50),
        "blocks of 8, 4000": partial(suite.block_mesh, 8, 20, 25),
        "blocks of 16, 1600": partial(suite.block_mesh, 16, 10, 10),
        **{f"pyamg {name}": partial(suite.example, name) for name in suite.EXAMPLES},
        "5-point, 250 x 250": partial(suite.poisson, 250, 250),
        "27-point, 32^3": partial(suite.finite_elements, 32, 32, 32),
        "elasticity, 100 x 100": partial(suite.elasticity, 100),
        "MiniLM output, 75 %": lambda: suite.magnitude_pruned(layers["L0.output.dense"], 0.75),
        "MiniLM intermediate, 90 %": lambda: suite.magnitude_pruned(
            layers["L3.intermediate.dense"], 0.9
        ),
        "MiniLM query, 95 %": lambda: suite.magnitude_pruned(
            layers["L5.attention.self.query"], 0.95
        ),
        "TVW 87.5 %, 3072 x 768": partial(suite.tvw, 3072, 768, 0.875, 128, 3),
        "random 85 %, 1536": partial(suite.unstructured, 1536, 1536, 0.85, 3),
        "random 97 %, 3000 x 2000": partial(suite.unstructured, 3000, 2000, 0.97, 3),
        "RMAT, 16384": partial(suite.rmat, 14, 8, 3),
        "community graph, 8192": partial(suite.communities, 8192, 64, 0.12, 3),
        "hidden blocks of 64, 3072": partial(suite.noisy_blocks, 3072, 64, shuffle=True, seed=3),
        "rotated diffusion, 140 x 170": partial(suite.rotated_diffusion, 140, 170),
        "5-point, 170 x 130": partial(suite.poisson, 170, 130),
        "7-point, 22 x 30 x 26": partial(suite.poisson, 22, 30, 26),
        "27-point, 18 x 22 x 20": partial(suite.finite_elements, 18, 22, 20),
        "9-point renumbered, 110 x 110": lambda: suite.shuffled(suite.finite_elements(110, 110)),
        "elasticity, 75 x 75": partial(suite.elasticity, 75),
        "blocks of 3, 2250": partial(suite.block_mesh, 3, 25, 30),
        "random 70 %, 900 x 1300": partial(suite.unstructured, 900, 1300, 0.7, 11),
        "random 92 %, 2500 x 600": partial(suite.unstructured, 2500, 600, 0.92, 11),
        "random 99.3 %, 5000 x 3500": partial(suite.unstructured, 5000, 3500, 0.993, 11),
        "TVW 80 %, 2304 x 576": partial(suite.tvw, 2304, 576, 0.8, 128, 11),
        "2:4, 640": partial(suite.two_four, 640, 11),
        "MiniLM attention output, 60 %": pruned("L1.attention.output.dense", 0.6),
        "MiniLM intermediate, 85 %": pruned("L4.intermediate.dense", 0.85),
        "MiniLM output, 92 %": pruned("L2.output.dense", 0.92),
        "RMAT, 4096": partial(suite.rmat, 12, 16, 11),
        "Barabasi-Albert, 6000": partial(suite.preferential, 6000, 10, 11),
        "community graph, 10000": partial(suite.communities, 10_000, 100, 0.1, 11),
        "scattered, 12000": partial(suite.scattered, 12_000, 6, 11),
        "band of 41, 6000": partial(suite.banded, 6000, 20, 11),
        "scattered, 30000": partial(suite.scattered, 30_000, 7, 5),
        "scattered, 60000": partial(suite.scattered, 60_000, 4, 7),
        "scattered, 150000": partial(suite.scattered, 150_000, 2, 7),
        "RMAT, 65536": partial(suite.rmat, 16, 3, 7),
        "Barabasi-Albert, 20000": partial(suite.preferential, 20_000, 4, 7),
        "small world, 16000": partial(suite.small_world, 16_000, 5, 0.1, 7),
        "5-point, 300 x 300": partial(suite.poisson, 300, 300),
        "7-point, 36^3": partial(suite.poisson, 36, 36, 36),
        "9-point renumbered, 160 x 160": lambda: suite.shuffled(suite.finite_elements(160, 160)),
        "band of 3, 50000": partial(suite.banded, 50_000, 1),
        "random 95 %, 300 x 6000": partial(suite.unstructured, 300, 6000, 0.95, 5),
        "random 95 %, 6000 x 300": partial(suite.unstructured, 6000, 300, 0.95, 5),
        "random 99.5 %, 12000 x 3000": partial(suite.unstructured, 12_000, 3000, 0.995, 5),
        "random 80 %, 1024 x 700": partial(suite.unstructured, 1024, 700, 0.8, 5),
        "TVW 60 %, 768": partial(suite.tvw, 768, 768, 0.6, 128, 5),
        "MiniLM intermediate, 50 %": pruned("L2.intermediate.dense", 0.5),
        "advection, 125 x 125": partial(suite.advection, 125),
        "quadratic triangles, 70 x 55": partial(suite.triangles, 70, 55),
        "27-point, 30 x 12 x 40": partial(suite.finite_elements, 30, 12, 40),
        "7-point, 40 x 20 x 35": partial(suite.poisson, 40, 20, 35),
        "5-point renumbered, 190 x 120": lambda: suite.shuffled(suite.poisson(190, 120), 23),
        "elasticity, 84 x 84": partial(suite.elasticity, 84),
        "blocks of 3, 3150": partial(suite.block_mesh, 3, 30, 35),
        "band of 31, 9000": partial(suite.banded, 9000, 15, 23),
        "small world, 9000": partial(suite.small_world, 9000, 8, 0.3, 23),
        "RMAT, 16384, sparser": partial(suite.rmat, 14, 5, 23),
        "near points, 12000": partial(suite.geometric, 12_000, 0.02, 23),
        "ratings, 9000 x 1500": partial(suite.ratings, 9000, 1500, 60, 23),
        "scattered, 50000": partial(suite.scattered, 50_000, 3, 23),
        "random 88 %, 1700 x 1100": partial(suite.unstructured, 1700, 1100, 0.88, 23),
        "random 99.6 %, 7000 x 4500": partial(suite.unstructured, 7000, 4500, 0.996, 23),
        "TVW 70 %, 1536 x 1024": partial(suite.tvw, 1536, 1024, 0.7, 128, 23),
        "2:4, 992": partial(suite.two_four, 992, 23),
        "MiniLM value, 88 %": pruned("L3.attention.self.value", 0.88),
        "MiniLM intermediate, 80 %": pruned("L0.intermediate.dense", 0.8),
        "MiniLM output, 70 %": pruned("L5.output.dense", 0.7),
        "advection, 88 x 88": partial(suite.advection, 88),
        "quadratic triangles, 40 x 90": partial(suite.triangles, 40, 90),
        "9-point, 135 x 185": partial(suite.finite_elements, 135, 185),
        "27-point renumbered, 24 x 18 x 26": lambda: suite.shuffled(
            suite.finite_elements(24, 18, 26), 31
        ),
        "7-point, 24 x 48 x 21": partial(suite.poisson, 24, 48, 21),
        "rotated diffusion, 155 x 105": partial(suite.rotated_diffusion, 155, 105),
        "elasticity, 66 x 66": partial(suite.elasticity, 66),
        "blocks of 4, 2640": partial(suite.block_mesh, 4, 22, 30),
        "band of 15, 11000": partial(suite.banded, 11_000, 7, 31),
        "small world, 7000": partial(suite.small_world, 7000, 12, 0.05, 31),
        "Barabasi-Albert, 8000": partial(suite.preferential, 8000, 9, 31),
        "near points, 9500": partial(suite.geometric, 9500, 0.03, 31),
        "ratings, 4000 x 3000": partial(suite.ratings, 4000, 3000, 90, 31),
        "community graph, 5000": partial(suite.communities, 5000, 30, 0.12, 31),
        "random 80 %, 1300 x 1900": partial(suite.unstructured, 1300, 1900, 0.8, 31),
        "random 98.5 %, 3800 x 2600": partial(suite.unstructured, 3800, 2600, 0.985, 31),
        "TVW 85 %, 2048 x 1280": partial(suite.tvw, 2048, 1280, 0.85, 128, 31),
        "hidden blocks of 48, 2400": partial(suite.noisy_blocks, 2400, 48, shuffle=True, seed=31),
        "MiniLM key, 65 %": pruned("L2.attention.self.key", 0.65),
        "MiniLM intermediate, 93 %": pruned("L5.intermediate.dense", 0.93),
    }


def held_back(weights: str | None) -> Matrices:
    """Return matrices that nothing was fitted to, listed before any of them was measured.

    Four made from real meshes or by a multigrid solver, four of galleries, four graphs, and two
    each that are random, banded, of blocks, and pruned layers; of 1e3 to 1e6 nonzeros.
    """
    layers = suite.layers(weights)
    return {
        "airfoil, elasticity": suite.airfoil_elasticity,
        "airfoil, two steps": lambda: suite.clean(
            suite.example("airfoil") @ suite.example("airfoil")
        ),
        "coarse 7-point, 60 x 30 x 30": lambda: suite.coarse(suite.poisson(60, 30, 30)),
        "prolongation, 180 x 150": lambda: suite.prolongation(suite.finite_elements(180, 150)),
        "periodic 5-point, 15 x 14": partial(suite.laplacian, (15, 14), "periodic"),
        "Neumann 7-point, 31 x 27 x 35": partial(suite.laplacian, (31, 27, 35), "neumann"),
        "advection, 230 x 230": partial(suite.advection, 230),
        "quadratic triangles, 33 x 57": partial(suite.triangles, 33, 57),
        "RMAT, 8192, denser": partial(suite.rmat, 13, 11, 41),
        "Barabasi-Albert, 15000": partial(suite.preferential, 15_000, 12, 41),
        "near points, 3000": partial(suite.geometric, 3000, 0.05, 41),
        "ratings, 6000 x 5000": partial(suite.ratings, 6000, 5000, 50, 41),
        "random 60 %, 1400 x 1000": partial(suite.unstructured, 1400, 1000, 0.6, 41),
        "scattered, 25000": partial(suite.scattered, 25_000, 6, 41),
        "band of 9, 3500": partial(suite.banded, 3500, 4, 41),
        "band of 101, 9900": partial(suite.banded, 9900, 50, 41),
        "blocks of 3, 3696": partial(suite.block_mesh, 3, 28, 44),
        "hidden blocks of 40, 4000": partial(suite.noisy_blocks, 4000, 40, shuffle=True, seed=41),
        "MiniLM query, 55 %": lambda: suite.magnitude_pruned(
            layers["L4.attention.self.query"], 0.55
        ),
        "MiniLM intermediate, 96 %": lambda: suite.magnitude_pruned(
            layers["L1.intermediate.dense"], 0.96
        ),
    }
