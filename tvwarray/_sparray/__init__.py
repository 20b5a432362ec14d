"""What scipy's sparse arrays do, for a matrix of this format; `tvwarray._matrix` has the class.

================  =============================================================
`operations`      operators and methods, each one delegated
`construct`       what the arguments of the constructor mean
`indexing`        ``A[...]``
`products`        ``A @ other``
`reductions`      sums, means, extremes, counts, diagonals
`protocols`       NumPy's functions and ufuncs
`registration`    scipy's own functions take a matrix
`arithmetic`      with scalars, vectors, sparse and dense matrices; comparisons
`cupyx`           to matrices of cupyx.scipy.sparse
`elementwise`     what keeps the layout: new values in the same places
================  =============================================================

Modules import from those below them.
"""
