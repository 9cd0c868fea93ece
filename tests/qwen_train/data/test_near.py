"""Near copies: what is found against exact similarity of all pairs, the theory's curve, and datasketch.

Not covered: whether five words and 0.8 are the right measure of a copy.
"""

from __future__ import annotations

import random
from itertools import combinations
from math import sqrt
from pathlib import Path

import datasketch
import numpy as np
import pytest

from harness.contamination import words as read_words
from qwen_train.data import minhash
from qwen_train.data.config import Near
from tests.qwen_train.data import planted

NEAR = Near()


def test_recall_and_precision_against_all_pairs(tmp_path: Path) -> None:
    draw = random.Random(1)
    asked = [0.95] * 60 + [0.9] * 60 + [0.65] * 60 + [0.3] * 60
    pairs = [planted.pair(draw, similarity) for similarity in asked]
    texts = {f"{side}{number}": both[side] for side in (0, 1) for number, both in enumerate(pairs)}
    true = {
        frozenset(both)
        for both in combinations(texts, 2)
        if texts[both[0]][0] == texts[both[1]][0] and planted.jaccard(texts[both[0]], texts[both[1]]) >= NEAR.threshold
    }
    assert len(true) == 120  # unlike first words share no shingle: the pairs planted at 0.9 and above
    found = planted.found(planted.write(tmp_path / "texts.jsonl", pairs), tmp_path / "out", NEAR)
    ours = {frozenset(both) for both in found.items()}
    assert len(ours & true) / len(true) >= 0.98
    assert len(ours & true) / len(ours) == 1


def test_the_share_found_follows_the_curve() -> None:
    """At each similarity within four standard errors of `found_at`, with signatures as the pipeline makes them."""
    draw = random.Random(2)
    near = Near(permutations=64, bands=16)
    count = 300
    for similarity in (0.55, 0.7, 0.8, 0.9):
        pairs = [planted.pair(draw, similarity, size=200) for _ in range(count)]
        true = planted.jaccard(*pairs[0])
        sides = [
            minhash.signatures(
                [minhash.shingles(read_words(" ".join(both[side])), near.shingle) for both in pairs], near.permutations
            )
            for side in (0, 1)
        ]
        shared = (minhash.band_keys(sides[0], near.bands) == minhash.band_keys(sides[1], near.bands)).any(axis=0)
        agreed = (sides[0] == sides[1]).mean(axis=1)
        banded = minhash.found_by_bands(true, near.bands, near.permutations // near.bands)
        both = minhash.found_at(true, threshold=0.75, permutations=near.permutations, bands=near.bands)
        for share, theory in ((shared.mean(), banded), ((shared & (agreed >= 0.75)).mean(), both)):
            assert abs(share - theory) <= 4 * sqrt(max(theory * (1 - theory), 0.002) / count), (similarity, theory)
        assert agreed.mean() == pytest.approx(true, abs=4 * sqrt(true * (1 - true) / 64 / count))


def test_the_curve_by_drawing() -> None:
    """`found_at` against signatures drawn number by number."""
    generator = np.random.default_rng(3)
    for similarity in (0.5, 0.75, 0.9):
        agree = generator.random((200_000, 8, 4)) < similarity
        drawn = agree.all(axis=2).any(axis=1) & (agree.sum(axis=(1, 2)) >= 0.7 * 32)
        theory = minhash.found_at(similarity, threshold=0.7, permutations=32, bands=8)
        assert drawn.mean() == pytest.approx(theory, abs=0.005)
        assert minhash.found_by_bands(similarity, 8, 4) == pytest.approx(
            agree.all(axis=2).any(axis=1).mean(), abs=0.005
        )


def test_agrees_with_datasketch() -> None:
    """The same pairs of a mixed set, as often right, by its MinHash and ours with equal numbers of permutations."""
    draw = random.Random(4)
    pairs = [planted.pair(draw, similarity, size=150) for similarity in (0.5, 0.6, 0.7, 0.8, 0.9) for _ in range(20)]
    true = np.array([planted.jaccard(*both) for both in pairs])
    theirs, ours = [], []
    for both in pairs:
        hashes = []
        for text in both:
            hashed = datasketch.MinHash(num_perm=128, seed=1)
            hashed.update_batch(" ".join(text[i : i + 5]).encode() for i in range(len(text) - 4))
            hashes.append(hashed)
        theirs.append(hashes[0].jaccard(hashes[1]))
        made = minhash.signatures([minhash.shingles(read_words(" ".join(text)), 5) for text in both], 128)
        ours.append((made[0] == made[1]).mean())
    errors = [np.sqrt(np.mean((np.array(estimates) - true) ** 2)) for estimates in (ours, theirs)]
    expected = float(np.sqrt(np.mean(true * (1 - true) / 128)))
    assert errors == pytest.approx([expected, expected], rel=0.25)
    agree = (np.array(ours) >= 0.75) == (np.array(theirs) >= 0.75)
    assert agree[np.abs(true - 0.75) > 0.1].all()


def test_the_longest_stays_and_of_equally_long_ones_the_first(tmp_path: Path) -> None:
    draw = random.Random(5)
    text = planted.words(draw, 300)
    pairs = [([*text, "tail"], text), (text[1:], [*text[1:], "tailor"])]
    found = planted.found(planted.write(tmp_path / "texts.jsonl", pairs), tmp_path / "out", NEAR)
    assert found == {"01": "00", "10": "00", "11": "00"}


def test_texts_without_words_are_not_alike(tmp_path: Path) -> None:
    made = minhash.shingles(read_words("?! ... --"), 5)
    assert len(made) == 0 and len(minhash.shingles(read_words("two words"), 5)) == 1


def test_many_unlike_documents_of_one_bucket(tmp_path: Path) -> None:
    """One band of one number: buckets are full of documents that only the signatures tell apart."""
    draw = random.Random(6)
    pairs = [planted.pair(draw, 0.95, size=100) for _ in range(100)]
    found = planted.found(
        planted.write(tmp_path / "texts.jsonl", pairs), tmp_path / "out", Near(permutations=8, bands=8, threshold=0.8)
    )
    assert sum(found.get(f"1{n}", found.get(f"0{n}")) in (f"0{n}", f"1{n}") for n in range(100)) > 80
