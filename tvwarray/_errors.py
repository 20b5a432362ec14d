"""The two errors of the library; each message says where, what, the rule and the way out."""

from __future__ import annotations


class FormatError(ValueError):
    """A matrix, file or argument breaks a rule of the tile-vector-wise format."""


class BackendError(RuntimeError):
    """No backend can run the product asked for; the message lists each one's reason."""
