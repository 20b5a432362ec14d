"""Sparse matrices in tile-vector-wise format, for CPUs and NVIDIA GPUs.

Rows are grouped in tiles; every tile keeps columns of its own, and in each group of four kept
columns a row holds two values. A matrix pruned so multiplies faster than the dense one, and is as
precise as its values.

>>> import numpy as np, tvwarray
>>> W = np.random.default_rng(0).standard_normal((256, 512), dtype=np.float32)
>>> A = tvwarray.sparsify(W, 0.75)
>>> (A @ np.ones((512, 8), np.float32)).shape
(256, 8)
"""

from tvwarray import prune
from tvwarray._advice import EfficiencyWarning
from tvwarray._analyze import Analysis, analyze
from tvwarray._autotune import autotune
from tvwarray._conv import conv2d
from tvwarray._epilogue import Epilogue
from tvwarray._errors import BackendError, FormatError
from tvwarray._files import load, save
from tvwarray._install import __version__, warn_of_source_folder
from tvwarray._kernels.cpu.threads import get_num_threads, limit_threads, set_num_threads
from tvwarray._matmul import linear, matmul, select_backend
from tvwarray._matrix import TVWMatrix
from tvwarray._plan import Plan, plan
from tvwarray._show_config import show_config
from tvwarray._sparsify import sparsify
from tvwarray._sparsify_model import LayerReport, SparsifiedModel, sparsify_model
from tvwarray._storage import TVWStorage

__all__ = [
    "Analysis",
    "BackendError",
    "EfficiencyWarning",
    "Epilogue",
    "FormatError",
    "LayerReport",
    "Plan",
    "SparsifiedModel",
    "TVWMatrix",
    "TVWStorage",
    "__version__",
    "analyze",
    "autotune",
    "conv2d",
    "get_num_threads",
    "limit_threads",
    "linear",
    "load",
    "matmul",
    "plan",
    "prune",
    "save",
    "select_backend",
    "set_num_threads",
    "show_config",
    "sparsify",
    "sparsify_model",
]

warn_of_source_folder()
