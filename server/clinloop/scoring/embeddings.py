"""Strict reading of features that untrusted code wrote: a .npy array of two dimensions and the case id of each row. Nothing is unpickled."""

from __future__ import annotations

import io
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from clinloop.errors import BadPredictions

MAX_FEATURES = 2048
_TYPES = ("<f2", "<f4")
_HEADER = 256
"""Bytes that the header of a .npy file of two dimensions may have; numpy writes 118."""
_ID = 64

Floats32 = npt.NDArray[np.float32]


def max_bytes(n_cases: int) -> tuple[int, int]:
    """Return how many bytes the array and the list of ids may have."""
    return _HEADER + n_cases * MAX_FEATURES * 4, n_cases * (_ID + 2)


def parse_embeddings(array: bytes, case_ids: bytes, issued: Collection[str]) -> dict[str, Floats32]:
    """Return the features (D,) by case id; cases may be missing.

    Raises:
        BadPredictions: it is no plain array of 16- or 32-bit floats with at most MAX_FEATURES columns, one row for each listed case.
    """
    caps = max_bytes(len(issued))
    if len(array) > caps[0] or len(case_ids) > caps[1]:
        raise _refusal(f"they are larger than {len(issued)} cases can need")
    names = case_ids.decode("ascii", errors="replace").split("\n")[:-1]
    if len(set(names)) != len(names) or not set(names) <= set(issued):
        raise _refusal("the list of case ids names a case twice, or one that was not asked for")
    stream = io.BytesIO(array)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise _refusal("the array is not in version 1.0 of the .npy format")
        # A literal of at most this many bytes is read, nothing is evaluated.
        shape, is_fortran, kind = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _refusal("the array has no valid .npy header") from error
    if kind.str not in _TYPES or is_fortran or len(shape) != 2:
        raise _refusal("the array is not a C-ordered table of float16 or float32")
    if shape[0] != len(names) or not 1 <= shape[1] <= MAX_FEATURES:
        raise _refusal(f"its shape is {shape[0]} × {shape[1]}, not one row for each of {len(names)} listed cases")
    if len(array) - stream.tell() != shape[0] * shape[1] * kind.itemsize:
        raise _refusal("the array is shorter or longer than its header says")
    rows = np.frombuffer(array, dtype=kind, offset=stream.tell()).reshape(shape).astype(np.float32)
    if not np.isfinite(rows).all():
        raise _refusal("a number is not finite")
    return dict(zip(names, rows, strict=True))


def _refusal(why: str) -> BadPredictions:
    return BadPredictions(
        f"The embeddings beside the predictions cannot be used: {why}. Write them with clinloop_runtime.write_embeddings."
    )
