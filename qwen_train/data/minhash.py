"""MinHash signatures of word shingles (rensa), their bands, and the theory of both (Broder, SEQUENCES 1997).

A signature has P numbers; two texts agree in each with a chance that is the Jaccard similarity J of their sets of
shingles. Cut into b bands of r numbers, they share a band with the chance 1 - (1 - J^r)^b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.contamination import Words, gram_hashes

SEED = 1
Array = Any


def shingles(words: Words, size: int) -> Array:
    """Hashes (uint64) of all runs of `size` words; of a shorter text, of all its words together."""
    size = min(size, len(words))
    return gram_hashes(words.hashes, [size])[size] if size else np.zeros(0, dtype=np.uint64)


def signatures(sets: Sequence[Array], permutations: int) -> Array:
    """(N, permutations) uint32 of N sets of hashes; repeated hashes count once."""
    import rensa

    if not sets:
        return np.zeros((0, permutations), dtype=np.uint32)
    offsets = np.cumsum([0, *map(len, sets)])
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), offsets, permutations, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def band_keys(signatures: Array, bands: int) -> Array:
    """(bands, N) uint64: equal where two signatures agree in a whole band."""
    rows = signatures.reshape(len(signatures), bands, -1).astype(np.uint64)
    keys: Array = np.full((bands, len(signatures)), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for row in range(rows.shape[2]):
        keys = (keys ^ rows[:, :, row].T) * np.uint64(0xBF58476D1CE4E5B9)
        keys ^= keys >> np.uint64(29)
    return keys


def found_by_bands(jaccard: float, bands: int, rows: int) -> float:
    """Chance that two texts of this similarity share a band."""
    return 1.0 - (1.0 - jaccard**rows) ** bands


def found_at(jaccard: float, *, threshold: float, permutations: int, bands: int) -> float:
    """Chance that they share a band and their signatures agree in at least `threshold` of the numbers, exactly."""
    rows = permutations // bands
    least = math.ceil(threshold * permutations - 1e-9)
    # by the number of bands that agree whole, then of numbers that agree in all others
    whole = jaccard**rows
    other = _binomials(rows, jaccard)[:rows]  # numbers of a band that does not agree whole
    without = np.ones(1)
    total = np.zeros(permutations + 1)
    for others in range(bands + 1):
        agreed = bands - others
        if agreed:
            ways = math.comb(bands, agreed) * whole**agreed
            total[agreed * rows : agreed * rows + len(without)] += ways * without
        without = np.convolve(without, other)
    return float(min(1.0, total[least:].sum()))


def _binomials(n: int, p: float) -> Array:
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
