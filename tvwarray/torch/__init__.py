"""Matrices in PyTorch: products with gradients, a linear layer, sparse tensors.

``A @ x`` and ``x @ A.T`` of a `TVWMatrix` and a tensor come here by themselves; import this
package for the layer and the conversions.
"""

from tvwarray.torch._functions import linear, matmul
from tvwarray.torch._layer import TVWLinear, replace_linear
from tvwarray.torch._sparse import from_torch, to_coo, to_torch
from tvwarray.torch._tensors import to_array, to_tensor

__all__ = [
    "TVWLinear",
    "from_torch",
    "linear",
    "matmul",
    "replace_linear",
    "to_array",
    "to_coo",
    "to_tensor",
    "to_torch",
]
