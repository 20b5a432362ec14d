"""Matrices in TensorFlow: products with gradients, eagerly and in graphs; sparse tensors.

``A @ x`` and ``x @ A.T`` of a `TVWMatrix` and a tensor come here by themselves.
"""

from tvwarray.tf._functions import linear, matmul
from tvwarray.tf._sparse import from_tf, to_coo, to_tf
from tvwarray.tf._tensors import to_array, to_tensor

__all__ = ["from_tf", "linear", "matmul", "to_array", "to_coo", "to_tensor", "to_tf"]
