"""Matrices in JAX: products under `jit`, `vmap` and `grad`, pytrees, BCSR.

``A @ x`` and ``x @ A.T`` of a `TVWMatrix` and a JAX array come here by themselves. Importing this
package makes `TVWMatrix` a pytree whose leaves are its values, so that a matrix can be an argument
of a transformed function, and `jax.grad` with respect to it gives a matrix.
"""

from tvwarray.jax._arrays import to_array, to_jax_array
from tvwarray.jax._functions import linear, matmul
from tvwarray.jax._sparse import from_jax, to_coo, to_jax

__all__ = ["from_jax", "linear", "matmul", "to_array", "to_coo", "to_jax", "to_jax_array"]
