"""`make bench-data`: near copies by our stages against datasketch on the same texts in one run, and the share of
planted copies found by similarity; writes docs/near-copies.md and docs/near-copies.svg.

    python -m tests.bench.near_copies [--rounds 3]

Both sides cut the same texts into the same runs of five words, on one core, from text to groups of copies.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"

from harness.contamination import tokens, words
from harness.environment import describe
from qwen_train.data import duplicates, minhash
from qwen_train.data.clean import Runs
from qwen_train.data.config import DataConfig, Near
from qwen_train.data.default_corpus import default_corpus
from qwen_train.data.files import open_array
from qwen_train.data.normalise import normalise
from qwen_train.data.rules import Facts
from tests.qwen_train.data import planted

DOCS = Path(__file__).parents[2] / "docs"
NEAR = Near()
PIECE = 3000
"""Characters of a document."""
EVERY = 10
"""Each such document is planted once more with every CHANGE-th word replaced."""
CHANGE = 150
SIMILARITIES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.74, 0.78, 0.82, 0.86, 0.9, 0.95, 1.0)
PAIRS = 150


def documents() -> list[str]:
    """Pieces of the default corpus, and planted copies behind them."""
    whole = (normalise(path.read_text(encoding="utf-8", errors="replace")) for path in default_corpus())
    found = [text[start : start + PIECE] for text in whole for start in range(0, len(text) - PIECE // 2, PIECE)]
    draw = random.Random(0)
    copies = []
    for text in found[::EVERY]:
        split = text.split(" ")
        for place in range(draw.randrange(CHANGE), len(split), CHANGE):
            split[place] = planted.words(draw, 1)[0]
        copies.append(" ".join(split))
    return found + copies


def ours(texts: Sequence[str]) -> tuple[float, float, set[tuple[int, int]]]:
    """Seconds to all signatures (written), seconds to the groups, and the pairs (copy, document that stays)."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        start = time.perf_counter()
        runs = Runs(work, 0, DataConfig(near=NEAR))
        for line, text in enumerate(texts):
            runs.add(0, line, Facts(text, "en"))
        runs.flush()
        signed = time.perf_counter() - start
        kept = duplicates.Kept(work, [runs.number])
        duplicates.exact(kept, 0, work / "exact.npy")
        keepers = duplicates.mark_exact(kept.count, [work / "exact.npy"])
        paths = [work / f"near-{band}.npy" for band in range(NEAR.bands)]
        for band, path in enumerate(paths):
            duplicates.near(kept, NEAR, keepers >= 0, band, 0, path)
        duplicates.resolve(kept, keepers, paths)
        seconds = time.perf_counter() - start
        pairs = {(one, other) for path in paths for one, other in open_array(path).tolist()}
        exact = {(one, other) for one, other in open_array(work / "exact.npy").tolist()}
        return signed, seconds, pairs | exact


def theirs(texts: Sequence[str]) -> tuple[float, float, set[tuple[int, int]]]:
    """The same by datasketch's MinHash and MinHashLSH, its candidates checked by its estimate."""
    from datasketch import MinHash, MinHashLSH

    start = time.perf_counter()
    hashes = []
    for text in texts:
        read = tokens(text)
        made = MinHash(num_perm=NEAR.permutations)
        made.update_batch([" ".join(read[place : place + 5]).encode() for place in range(max(1, len(read) - 4))])
        hashes.append(made)
    signed = time.perf_counter() - start
    lsh = MinHashLSH(num_perm=NEAR.permutations, params=(NEAR.bands, NEAR.permutations // NEAR.bands))
    pairs = set()
    for number, made in enumerate(hashes):
        candidates = (other for other in lsh.query(made) if made.jaccard(hashes[other]) >= NEAR.threshold)
        pairs |= {(number, other) for other in candidates}
        lsh.insert(number, made)
    return signed, time.perf_counter() - start, pairs


def groups(pairs: set[tuple[int, int]], count: int) -> Any:
    """(count,) the group of each document where pairs are joined."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = zip(*pairs, strict=True)
    graph = coo_array(([1] * len(pairs), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def curve() -> list[tuple[float, float, float]]:
    """(Similarity, share of PAIRS planted pairs that the stages find, theory)."""
    draw = random.Random(1)
    rows = []
    for similarity in SIMILARITIES:
        pairs = [planted.pair(draw, similarity) for _ in range(PAIRS)]
        with tempfile.TemporaryDirectory() as folder:
            texts = [
                [*both[side], "x" * (side + 1)] if similarity == 1 else both[side] for side in (0, 1) for both in pairs
            ]
            corpus = planted.write(Path(folder) / "texts.jsonl", [(texts[n], texts[PAIRS + n]) for n in range(PAIRS)])
            found = planted.found(corpus, Path(folder) / "out", NEAR)
        true = planted.jaccard(*pairs[0])
        share = len(found) / PAIRS
        theory = minhash.found_at(true, threshold=NEAR.threshold, permutations=NEAR.permutations, bands=NEAR.bands)
        rows.append((true, share, theory))
    return rows


def plot(rows: Sequence[tuple[float, float, float]], path: Path) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": "near", "font.family": "sans-serif"}
    with matplotlib.rc_context(rc=style):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        grid = [0.4 + place / 200 for place in range(121)]
        shape = {"permutations": NEAR.permutations, "bands": NEAR.bands}
        theory = [minhash.found_at(point, threshold=NEAR.threshold, **shape) for point in grid]
        bands = [minhash.found_by_bands(point, NEAR.bands, NEAR.permutations // NEAR.bands) for point in grid]
        axes.plot(
            grid,
            bands,
            "--",
            color="#8a8a8a",
            label=f"theory: a band in common ({NEAR.bands} of {NEAR.permutations // NEAR.bands})",
        )
        axes.plot(grid, theory, color="#1457b8", label=f"theory: and signatures agree in {NEAR.threshold:g}")
        axes.plot(
            [row[0] for row in rows],
            [row[1] for row in rows],
            "o",
            color="#a8450b",
            label=f"found of {PAIRS} planted pairs each",
        )
        axes.axvline(NEAR.threshold, color="#cccccc", linewidth=1)
        axes.set_xlabel("Jaccard similarity of the two texts' runs of five words")
        axes.set_ylabel("share of pairs found")
        axes.legend(frameon=False)
        figure.savefig(path, facecolor="white", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    texts = documents()
    size = sum(map(len, texts)) / 1e6
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        start = time.perf_counter()
        for text in texts:
            words(text)
        reading = time.perf_counter() - start
        (signed, seconds, pairs), (their_signed, their_seconds, their_pairs) = ours(texts), theirs(texts)
        for name, value in (
            ("ours", len(texts) / seconds),
            ("theirs", len(texts) / their_seconds),
            ("ratio", their_seconds / seconds),
            ("signing", their_signed / signed),
            ("reading", reading / seconds),
        ):
            rates.setdefault(name, []).append(value)
    count = len(range(0, len(texts) * EVERY // (EVERY + 1), EVERY))
    first = len(texts) - count
    planted_pairs = {(first + number, number * EVERY) for number in range(count)}
    alike = {
        tuple(sorted((one, other)))
        for one, other in pairs | their_pairs | planted_pairs
        if planted.jaccard(tokens(texts[one]), tokens(texts[other])) >= NEAR.threshold
    }
    rows = curve()
    plot(rows, DOCS / "near-copies.svg")
    mid = {name: statistics.median(values) for name, values in rates.items()}
    both = [groups(found, len(texts)) for found in (pairs, their_pairs)]
    joined, their_joined = (sum(bool(of[one] == of[other]) for one, other in alike) for of in both)
    lines = [
        "# How well and how fast are near copies found?",
        "",
        "Measured by `make bench-data` (`python -m tests.bench.near_copies`), which writes this page.",
        "",
        f"{describe()['machine']['processor']}, one core; rensa {version('rensa')}, datasketch {version('datasketch')}."
        f" {NEAR.permutations} permutations, {NEAR.bands} bands, threshold {NEAR.threshold:g}, runs of"
        f" {NEAR.shingle} words. Medians of {rounds} rounds in turn.",
        "",
        f"{len(texts):,} documents ({size:.1f} M characters: pieces of Python's own sources and of installed packages'"
        f" documents; every {EVERY}th a second time with one word in {CHANGE} replaced), from text to groups:",
        "",
        "| | documents a second | |",
        "|---|---|---|",
        f"| ours (`qwen_train.data`, arrays written to disk) | {mid['ours']:,.0f} | **{mid['ratio']:.1f} x** |",
        f"| datasketch (MinHash, MinHashLSH, in memory) | {mid['theirs']:,.0f} | 1 |",
        "",
        f"Up to the signatures alone: {mid['signing']:.1f} x. Reading the words of the texts, which both need, is"
        f" {100 * mid['reading']:.0f} % of our time: the limit that hashing cannot pass.",
        "",
        f"Of all pairs that either side named or that were planted, {len(alike):,} have an exact similarity of"
        f" {NEAR.threshold:g} or more. Both documents are in one group in {joined:,} of them; in {their_joined:,} where"
        " datasketch's pairs are joined to groups in the same way.",
        "",
        "![Share of planted pairs found, by similarity](near-copies.svg)",
        "",
        "| similarity | found | theory |",
        "|---|---|---|",
        *(f"| {true:.3f} | {share:.3f} | {theory:.3f} |" for true, share, theory in rows),
        "",
    ]
    (DOCS / "near-copies.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
