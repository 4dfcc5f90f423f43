"""The `.mat` files of ST-MNIST: touches of a tactile sensor of 10 x 10 cells, read by `scipy`.

The matrix `spiketrain` has a row for each cell, with 1 (more pressure) and -1 (less) at the columns of its
events, and a last row of times in seconds. Cell k is at x = k mod 10, y = k div 10.

Source: See et al. 2020, arXiv:2005.04319.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.readers.columns import block_of
from rsnn.data.readers.common import Block, Decoded, Source
from rsnn.errors import MissingDependencyError

NAME = "ST-MNIST mat"
MAGIC = b"MATLAB 5.0 MAT-file"
VARIABLE = "spiketrain"
SIDE = 10
MICROSECONDS = 1e6


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether the file begins as MATLAB 5 files do."""
    return head.startswith(MAGIC)


def read(source: Source) -> Decoded:
    """Read the events, all at once."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingDependencyError(
            f"{source.path} is a MATLAB file and the package 'scipy' is not installed; run: pip install 'rsnn[formats]'"
        ) from error
    try:
        matrix = loadmat(source.path, variable_names=[VARIABLE]).get(VARIABLE)
    except Exception as error:  # scipy does not say what a damaged file can raise
        raise source.fault(f"the file is truncated or damaged ({error}); expected a whole MATLAB 5 file") from error
    if matrix is None or matrix.ndim != 2 or matrix.shape[0] != SIDE * SIDE + 1 or matrix.dtype.kind not in "iuf":
        held = "nothing" if matrix is None else f"an array of shape {matrix.shape}"
        raise source.fault(f"it holds {held} under the name {VARIABLE!r}; expected numbers of shape (101, events)")
    return Decoded((SIDE, SIDE), _blocks(source, matrix))


def _blocks(source: Source, matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Iterator[Block]:
    column, cell = np.nonzero(matrix[:-1].T)
    values = {"t": matrix[-1, column], "x": cell % SIDE, "y": cell // SIDE, "p": matrix[cell, column]}
    yield block_of(source, values, MICROSECONDS, lambda index: f"column {column[index]}")
