"""Byte pair encoding learnt from texts: a new vocabulary by rustbpe, or further tokens behind an existing one's.

Both split texts by Qwen's pattern first, so that no token crosses words and every digit stands alone.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qwen_model.qwen_tokenizer import CONTROL, SPLIT
from qwen_train.errors import TrainError
from qwen_train.tokenizer.vocabulary import DIGITS


def ranks_of(size: int, what: str) -> int:
    """Ids of bytes among `size`, which `what` gave. Raises TrainError where none is left beside what all have."""
    if size <= 256 + len(CONTROL):
        raise TrainError(f"{what}: {size} ids; the bytes and control tokens alone are {256 + len(CONTROL)}; give more")
    return size - len(CONTROL)


def train(texts: Iterable[str], ranks: int) -> list[bytes]:
    """`ranks` tokens: the 256 bytes, then merges, commonest first. Raises TrainError if the texts give too few."""
    import rustbpe

    trainer = rustbpe.Tokenizer()
    # some more: two merges may come to the same bytes, which are one token
    trainer.train_from_iterator(iter(texts), ranks + ranks // 50, pattern=SPLIT)
    found = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    tokens = list(dict.fromkeys(bytes(token) for token, _ in found))[:ranks]
    if len(tokens) < ranks:
        raise TrainError(f"the texts give only {len(tokens):,} of {ranks:,} tokens; give more text or a smaller size")
    return tokens


@dataclass(frozen=True)
class Expanded:
    """An existing vocabulary with more tokens."""

    tokens: list[bytes]
    kept: int
    """The first of them, the existing ones in their order."""
    dropped: int
    """Existing tokens of several digits, which are left out."""


def expand(base: Sequence[bytes], texts: Iterable[str], ranks: int) -> Expanded:
    """Continue the merging that made `base` on other texts until there are `ranks` tokens.

    What a text was encoded to by the existing vocabulary is merged further, never otherwise: tokens keep their order.
    Raises TrainError if the texts give too few.
    """
    tokens = [token for token in base if not DIGITS.search(token)]
    kept = len(tokens)
    if ranks <= kept:
        raise TrainError(f"the vocabulary has {kept:,} tokens already; ask for more than that")
    merging = _Merging(tokens, texts)
    while len(merging.ranks) < ranks:
        if not merging.grow():
            raise TrainError(
                f"the texts give only {len(merging.ranks):,} of {ranks:,} tokens; give more text or a smaller size"
            )
    return Expanded(list(merging.ranks), kept, len(base) - kept)


class _Merging:
    """Distinct pieces of texts as tokens, and how often two tokens stand side by side that together are no token yet.

    Two pairs with the same bytes count as one: an encoder merges by the bytes alone.
    """

    def __init__(self, tokens: Sequence[bytes], texts: Iterable[str]) -> None:
        import regex
        import tiktoken

        self.ranks = {token: rank for rank, token in enumerate(tokens)}
        encoding = tiktoken.Encoding("base", pat_str=SPLIT, mergeable_ranks=self.ranks, special_tokens={})
        split = regex.compile(SPLIT)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split.findall(text))
        self._pieces = [[tokens[i] for i in encoding.encode_ordinary(piece)] for piece in counts]
        self._counts = list(counts.values())
        self._pairs: Counter[bytes] = Counter()
        self._where: defaultdict[bytes, set[int]] = defaultdict(set)
        for number in range(len(self._pieces)):
            self._count(number, 1)
        self._heap = [(-count, pair) for pair, count in self._pairs.items()]
        heapq.heapify(self._heap)

    def _count(self, number: int, sign: int) -> list[bytes]:
        """Add a piece's pairs to the counts, or take them out."""
        piece, times = self._pieces[number], sign * self._counts[number]
        pairs = [left + right for left, right in pairwise(piece)]
        for pair in pairs:
            self._pairs[pair] += times
            if sign > 0:
                self._where[pair].add(number)
            else:
                self._where[pair].discard(number)
        return pairs

    def grow(self) -> bool:
        """Make the commonest pair a token, of equally common ones the first by its bytes; False if there is none."""
        while self._heap:
            count, token = heapq.heappop(self._heap)
            if self._pairs[token] == -count and count and token not in self.ranks:
                break
        else:
            return False
        self.ranks[token] = len(self.ranks)
        touched: set[bytes] = set()
        for number in sorted(self._where[token]):
            touched.update(self._count(number, -1))
            self._pieces[number] = self._merged(self._pieces[number])
            touched.update(self._count(number, 1))
        for pair in touched:
            if self._pairs[pair] > 0:
                heapq.heappush(self._heap, (-self._pairs[pair], pair))
            else:
                del self._pairs[pair], self._where[pair]
        return True

    def _merged(self, piece: list[bytes]) -> list[bytes]:
        """Merge while two neighbours are a token together, the one of the lowest rank first, as an encoder does."""
        piece = list(piece)
        last = len(self.ranks)
        while len(piece) > 1:
            ranks = [self.ranks.get(left + right, last) for left, right in pairwise(piece)]
            place = min(range(len(ranks)), key=ranks.__getitem__)
            if ranks[place] == last:
                break
            piece[place : place + 2] = [piece[place] + piece[place + 1]]
        return piece
