"""Inputs that several sets share, each kept once."""

import hashlib

import numpy as np


class Distinct:
    """Distinct inputs, in the order in which they came."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._kept: list[np.ndarray] = []

    def add(self, inputs: np.ndarray) -> np.ndarray:
        """Adds inputs `[n, ...]`; returns the row of each in `stacked`, int32 `[n]`."""
        rows = np.empty(len(inputs), np.int32)
        for index, one in enumerate(inputs):
            digest = hashlib.blake2b(one.tobytes(), digest_size=16).digest()
            rows[index] = self._rows.setdefault(digest, len(self._kept))
            if rows[index] == len(self._kept):
                self._kept.append(one)
        return rows

    def stacked(self) -> np.ndarray:
        """All distinct inputs, `[stored, ...]`."""
        return np.stack(self._kept)
