"""`TVWLinear`: a linear layer with a sparse weight, its pattern frozen, its values trained."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import nn

from tvwarray._errors import FormatError
from tvwarray._frozen import FrozenPattern, frozen_pattern, values_of
from tvwarray._matrix import TVWMatrix
from tvwarray._namespace import Array
from tvwarray._storage import ARRAY_FIELDS, TVWStorage
from tvwarray.torch._functions import apply
from tvwarray.torch._products import Trained
from tvwarray.torch._tensors import to_array, to_tensor

INDEX_FIELDS: Final = tuple(f for f in ARRAY_FIELDS if f not in ("data", "remainder_data"))
BUFFERS: Final = ("header", *INDEX_FIELDS, "entries")


class TVWLinear(nn.Module):
    """``x @ A.T + bias``: `torch.nn.Linear` with a sparse weight.

    Parameters
    ----------
    A : TVWMatrix, shape (out_features, in_features)
        On the CPU or a GPU; its stored nonzeros are what is trained.
    bias : torch.Tensor, shape (out_features,), optional

    Attributes
    ----------
    values : torch.nn.Parameter, shape (stored,)
        In the order of the storage. Fillers and padding are among them: they are taken for zero,
        whatever they hold, and have no gradient.
    bias : torch.nn.Parameter or None

    Notes
    -----
    The pattern lies in buffers: it is part of `state_dict`, and loading another layer's state
    brings its pattern along. A product packs the values first if they have changed. On a GPU
    torch's version counter says whether they have, which writes through ``values.data`` do not
    advance: write to ``values`` under ``torch.no_grad()`` instead.

    ``torch.compile`` runs the layer as it is, between two graphs.

    Examples
    --------
    >>> import torch
    >>> from tvwarray.torch import TVWLinear
    >>> dense = torch.nn.Linear(64, 32)
    >>> mask = torch.rand(32, 64) < 0.25
    >>> layer = TVWLinear.from_linear(dense, mask)
    >>> layer(torch.ones(5, 64)).shape
    torch.Size([5, 32])
    """

    def __init__(self, A: TVWMatrix, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        if A.transposed:
            raise FormatError("the weight is transposed; pass it as it is stored, A.T.")
        for name in BUFFERS:
            self.register_buffer(name, None)
        self._trained: Trained | None = None
        self.values = nn.Parameter(to_tensor(_own(values_of(A.storage))), requires_grad=False)
        self._adopt(frozen_pattern(A.storage))
        if self.values.dtype.is_floating_point or self.values.dtype.is_complex:
            self.values.requires_grad_()
        if bias is not None and tuple(bias.shape) != (A.shape[0],):
            raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be ({A.shape[0]},).")
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Any = None) -> TVWLinear:
        """Take over a dense layer.

        Parameters
        ----------
        linear : torch.nn.Linear
            Its weight and bias are copied, with device, dtype and ``requires_grad``.
        mask : bool tensor or array, shape (out_features, in_features), optional
            Which weights stay; by default those not equal to zero. A `TVWMatrix` is taken as the
            weight itself, with its layout.

        Raises
        ------
        FormatError
            If `mask` is not boolean or has another shape than the weight.
        """
        weight = linear.weight.detach()
        A = mask if isinstance(mask, TVWMatrix) else _masked(weight, mask)
        if A.shape != tuple(weight.shape):
            raise FormatError(f"the matrix is {A.shape}, the weight {tuple(weight.shape)}.")
        layer = cls(A, linear.bias).to(device=weight.device, dtype=weight.dtype)
        layer.values.requires_grad_(linear.weight.requires_grad)
        if linear.bias is not None and layer.bias is not None:
            layer.bias.requires_grad_(linear.bias.requires_grad)
        return layer.train(linear.training)

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return int(self.header[1])

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return int(self.header[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x @ A.T + bias``, of shape (..., out_features)."""
        return _forward(self, x)

    def to_matrix(self) -> TVWMatrix:
        """Return the weight as a matrix of its own."""
        values = _own(to_array(self.values))
        return TVWMatrix.from_storage(self._weights().pattern.fill(values))

    def to_linear(self) -> nn.Linear:
        """Return the dense layer: what exports and kernels without sparsity take."""
        weight = to_tensor(self.to_matrix().toarray())
        made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        made.weight = nn.Parameter(weight, requires_grad=self.values.requires_grad)
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return made.train(self.training)

    def extra_repr(self) -> str:
        """Return what `repr` says between the brackets."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, stored={self.values.numel()}"
        )

    def _weights(self) -> Trained:
        """Return the pattern in the buffers, ready to be filled."""
        if self._trained is None:
            arrays = {name: getattr(self, name) for name in BUFFERS}
            self._trained = Trained(_pattern(arrays, self.values))
        return self._trained

    def _adopt(self, pattern: FrozenPattern) -> None:
        """Put a pattern in the buffers."""
        frame = pattern.frame
        header = (*frame.shape, frame.tile_rows, *(frame.vector or (0, 0)))
        self.header = torch.tensor(header, dtype=torch.int64)  # on the host, wherever the rest is
        for name in INDEX_FIELDS:
            x = getattr(frame, name)
            setattr(self, name, None if x is None else to_tensor(_own(_storable(x))))
        self.entries = None if pattern.full else to_tensor(_own(pattern.entries))
        self._trained = None

    def _apply(self, fn: Any, recurse: bool = True) -> TVWLinear:
        header = self.header
        super()._apply(fn, recurse)
        self.header = header  # read on every call: a copy on a GPU would be waited for
        self._trained = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_trained": None}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        given = {name: state_dict.get(prefix + name) for name in BUFFERS}
        values = state_dict.get(prefix + "values")
        errors: list[str] = rest[-1]
        if given["header"] is not None and values is not None:
            try:
                pattern = _pattern(given, values)
                pattern.fill(to_array(values)).check()
            except (FormatError, TypeError, ValueError) as e:
                errors.append(f"{prefix}values and its pattern are no matrix: {e}")
                return
            if pattern.frame.shape != (self.out_features, self.in_features):
                errors.append(
                    f"{prefix}header: the weight is {pattern.frame.shape}, the layer's "
                    f"{(self.out_features, self.in_features)}."
                )
                return
            device = self.values.device
            self._adopt(pattern)
            for name in (*INDEX_FIELDS, "entries"):
                if (x := getattr(self, name)) is not None:
                    setattr(self, name, x.to(device))
            if self.values.shape != values.shape:
                empty = torch.empty(values.shape, dtype=self.values.dtype, device=device)
                self.values = nn.Parameter(empty, self.values.requires_grad)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def replace_linear(model: nn.Module, masks: dict[str, Any]) -> nn.Module:
    """Make layers of a model sparse, in place.

    Parameters
    ----------
    model : torch.nn.Module
    masks : {name: mask}
        By the name of the layer, or of its weight ("encoder.0" or "encoder.0.weight"): the mask
        of `TVWLinear.from_linear`, or a `TVWMatrix` with the weight's values.

    Returns
    -------
    torch.nn.Module
        `model`; or the new layer, where `model` is itself the layer named "" or "weight".

    Raises
    ------
    KeyError
        If a name is no module of the model.
    TypeError
        If a module is not a plain ``nn.Linear``: one of a subclass may be read without being
        called, as the output projection of ``nn.MultiheadAttention`` is.
    ValueError
        If a weight is shared with another module, from which it would come apart.
    FormatError
        If a mask does not fit. Whatever is raised, the model is unchanged.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    owners: dict[int, set[int]] = {}
    for module in modules.values():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    made: dict[int, TVWLinear] = {}
    for name, mask in masks.items():
        layer = _named(modules, name)
        if len(owners[id(layer.weight)]) > 1:
            raise ValueError(f"{name}: its weight is shared with another module; untie it first.")
        try:
            made[id(layer)] = TVWLinear.from_linear(layer, mask)
        except FormatError as e:
            raise FormatError(f"{name}: {e}") from e
    for path, module in modules.items():
        if id(module) in made:
            if not path:
                return made[id(module)]
            parent, _, child = path.rpartition(".")
            setattr(modules[parent], child, made[id(module)])
    return model


@torch.compiler.disable
def _forward(layer: TVWLinear, x: torch.Tensor) -> torch.Tensor:
    rows, cols = layer.out_features, layer.in_features
    if x.ndim == 0 or x.shape[-1] != cols:
        raise ValueError(f"x has shape {tuple(x.shape)}; its last axis must be {cols}.")
    bias = layer.bias
    kind = x.device.type
    mixed = torch.is_autocast_enabled(kind) and x.is_floating_point()
    if mixed:
        x = x.to(torch.get_autocast_dtype(kind))
    y = apply(layer._weights(), False, layer.values, x, bias, rows, {})
    return y.to(x.dtype) if mixed else y


def _named(modules: dict[str, nn.Module], name: str) -> nn.Linear:
    path = name
    if path not in modules and (path == "weight" or path.endswith(".weight")):
        path = path.removesuffix("weight").removesuffix(".")
    if path not in modules:
        raise KeyError(f"{name!r} is no module of the model, nor the weight of one.")
    layer = modules[path]
    if type(layer) is not nn.Linear:
        raise TypeError(f"{name}: a {type(layer).__name__} is no plain torch.nn.Linear.")
    return layer


def _masked(weight: torch.Tensor, mask: Any) -> TVWMatrix:
    """Return the weight under `mask`, whose entries are those of the mask, zeros among them."""
    dense = to_array(weight.cpu())
    keep = _host_mask(mask, dense)
    places = np.arange(1, dense.size + 1).reshape(dense.shape)
    found = TVWMatrix.from_dense(np.where(keep, places, 0))
    place = found.storage.data
    data = np.where(place > 0, dense.reshape(-1)[np.maximum(place, 1) - 1], dense.dtype.type(0))
    return TVWMatrix.from_storage(frozen_pattern(found.storage).fill(data))


def _host_mask(mask: Any, dense: Array) -> Array:
    if mask is None:
        return dense != 0
    keep = to_array(mask.cpu()) if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if keep.dtype != np.bool_ or keep.shape != dense.shape:
        raise FormatError(
            f"mask is {keep.dtype} of shape {keep.shape}; it must be bool of shape {dense.shape}."
        )
    return keep


def _pattern(arrays: dict[str, torch.Tensor | None], values: torch.Tensor) -> FrozenPattern:
    """Return the pattern that buffers describe.

    Raises
    ------
    FormatError
        If sizes do not fit.
    """
    header, entries = arrays["header"], arrays["entries"]
    assert header is not None
    if header.shape != (5,) or header.dtype != torch.int64 or values.ndim != 1:
        raise FormatError("header holds 5 integers of 64 bits, values are flat.")
    rows, cols, tile_rows, *vector = header.tolist()
    needed = [n for n in INDEX_FIELDS[:4] if arrays[n] is None]
    if needed or (arrays["meta"] is None) == bool(vector[0]):
        raise FormatError(f"{', '.join(needed) or 'meta'} is missing, or not to be there.")
    none = to_array(values[:0])
    index: dict[str, Any] = {
        name: None if (x := arrays[name]) is None else to_array(x) for name in INDEX_FIELDS
    }
    if index["meta"] is not None:
        index["meta"] = index["meta"].view(np.uint16)
    frame = TVWStorage(
        shape=(rows, cols),
        tile_rows=tile_rows,
        vector=(vector[0], vector[1]) if vector[0] else None,
        data=none,
        remainder_data=None if index["remainder_indptr"] is None else none,
        **index,
    )
    stored = int(frame.data_indptr[-1])
    held = to_array(torch.ones_like(values, dtype=torch.bool) if entries is None else entries)
    beside = 0 if frame.remainder is None else int(frame.remainder.indices.shape[0])
    if held.dtype != np.bool_ or held.shape != (stored + beside,) or held.shape != values.shape:
        raise FormatError(
            f"there are {values.shape[0]} values and {held.shape[0]} marks of entries; the tiles "
            f"and the remainder hold {stored + beside}."
        )
    return FrozenPattern(frame, stored, held, entries is None)


def _storable(x: Array) -> Array:
    """Return metadata as signed integers: torch has the unsigned ones, but cannot pickle them."""
    return x.view(np.int16) if x.dtype == np.uint16 else x


def _own(x: Array) -> Array:
    """Return a copy: a buffer of torch is writable."""
    return x.copy()
