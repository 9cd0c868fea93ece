"""Which word n-grams of test items stand in other texts, exactly and fast. Imports nothing of the project.

A token is a run of letters, marks and digits, lower-cased; a Han or kana character is a token by itself, since Chinese
and Japanese put no spaces between words. Punctuation, symbols and spaces only separate. Text is composed first (NFC),
and full-width forms equal their plain ones. "Don't  STOP!" has the tokens don, t, stop; "４月，大" has 4, 月, 大.

An item's n-grams are its distinct runs of n tokens. Items shorter than n but of at least SHORTEST tokens are one gram,
their whole text. Filters of this kind: Brown et al., arXiv 2005.14165 (2020), appendix C, with n = 13.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

N = 13
SHORTEST = 8
"""Items of fewer tokens are not looked for: so few words are found anywhere."""
BATCH = 1 << 17
"""Characters that are hashed at once: the arrays of one batch stay in the processor's cache."""
CARRIED = 1 << 16
"""Characters that `pieces` looks back at most: no item has n tokens in a row that are longer."""

_PLANES = 0x32400
"""Code points from here on (no script that is written today) separate."""
_BASE = 0x9E3779B97F4A7C15  # odd: has an inverse modulo 2^64
_MASK = (1 << 64) - 1
_WORD, _ALONE, _CODE = np.uint32(1 << 30), np.uint32(1 << 31), np.uint32((1 << 30) - 1)
_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x323AF))
_OTHER_LONE = ((0x3005, 0x3005), (0x3007, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xF900, 0xFAFF))
"""々, 〇, hiragana and katakana with its extension, and Han characters that NFC leaves as they are."""

Array = Any
"""A numpy array, of one dimension everywhere here."""


@dataclass(frozen=True)
class Words:
    """A text's tokens: token i is folded[starts[i] : ends[i]], and stands in text[starts[i] : ends[i]]."""

    text: str
    """As given, composed."""
    folded: Array
    """Per character of `text`, what it counts as."""
    starts: Array
    ends: Array
    hashes: Array
    """Sixty-four bits per token."""

    def __len__(self) -> int:
        return len(self.starts)

    def gram(self, first: int, size: int) -> tuple[str, ...]:
        """The tokens first .. first + size - 1."""
        starts, ends = self.starts[first : first + size], self.ends[first : first + size]
        begin = int(starts[0]) if size else 0
        part = (self.folded[begin : int(ends[-1])] & _CODE if size else self.folded[:0]).tobytes()
        text = part.decode("utf-32-le", "surrogatepass")
        return tuple(text[s:e] for s, e in zip((starts - begin).tolist(), (ends - begin).tolist(), strict=True))


def words(text: str) -> Words:
    """The tokens of a text, with their places in it."""
    return _words(_composed(text))


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _words(text: str) -> Words:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    folded = _table().take(codes, mode="clip")
    word, lone = (folded & _WORD) != 0, folded >= _ALONE
    before, after = np.zeros_like(word), np.zeros_like(word)
    before[1:], after[:-1] = word[:-1], word[1:]
    starts = np.flatnonzero(lone | (word & ~before))
    ends: Array = np.flatnonzero(lone | (word & ~after)) + 1
    # the hash of a token is a difference of prefix sums, moved to the token's own place
    powers, inverses = _powers(len(codes) + 1)
    sums: Array = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(np.multiply(folded, powers[: len(codes)], dtype=np.uint64), out=sums[1:])
    return Words(text, folded, starts, ends, _mixed((sums[ends] - sums[starts]) * inverses[starts]))


def tokens(text: str) -> list[str]:
    """The tokens themselves."""
    found = words(text)
    return list(found.gram(0, len(found)))


def pieces(blocks: Iterable[str], n: int) -> Iterator[str]:
    """A long text, given in blocks that may end anywhere, in pieces that end between tokens.

    Each begins n - 1 tokens before the end of the last, so that every run of n tokens is in one; but never more than
    CARRIED characters before it (a longer run is in none), so that text without separators takes no more memory and
    time than other text.
    """
    carried = ""
    for block in blocks:
        found = words(carried + block)
        carried = found.text[found.starts[-n] if len(found) > n else 0 if len(found) else -1 :]
        if len(carried) > CARRIED and found.ends[-1] < len(found.text):
            yield found.text  # the last token is over, and may be left behind
        elif len(carried) > CARRIED or len(found) > n:
            yield found.text[: found.starts[-1]]  # the last token may go on in the next block
        carried = carried[-CARRIED:]
    yield carried


def gram_hashes(hashes: Array, sizes: Iterable[int]) -> dict[int, Array]:
    """Hashes of all runs of each size; run i begins at token i."""
    wanted = set(sizes)
    found: dict[int, Array] = {}
    total: Array = np.zeros(len(hashes), dtype=np.uint64)
    factor = 1
    for size in range(1, max(wanted, default=0) + 1):
        factor = factor * _BASE & _MASK
        total = total[: max(0, len(hashes) - size + 1)] + hashes[size - 1 :] * np.uint64(factor)
        if size in wanted:
            found[size] = total
    return found


@dataclass(frozen=True)
class Gram:
    """A gram of test items that stands in a text."""

    items: tuple[tuple[int, int], ...]
    """(Item's number, token of the item at which the gram first stands)."""
    first: int
    """The token of the text at which it begins."""
    size: int


class Index:
    """The n-grams of items, to be looked up in texts."""

    def __init__(self, texts: Sequence[str], n: int = N) -> None:
        """`texts`: one per item; an item's number is its place among them."""
        if n < SHORTEST:
            raise ValueError(f"n-grams of {n} tokens; at least {SHORTEST}")
        self.n = n
        self._words, bounds = _joined(texts)
        # the first token of each item, and of what follows the last
        self._firsts: Array = np.searchsorted(self._words.starts, bounds)
        self.lengths = np.diff(self._firsts).tolist()
        """Tokens of each item."""
        self.counts = [0] * len(texts)
        """Distinct grams of each item, 0 if it is too short."""
        self._tables = {size: self._tabulate(size) for size in range(SHORTEST, n + 1)}
        self._checked: dict[tuple[int, int], dict[tuple[str, ...], tuple[tuple[int, int], ...]]] = {}

    def find(self, text: Words) -> Iterator[Gram]:
        """The grams that stand in a text, by size and place."""
        sizes = [size for size, table in self._tables.items() if len(table.hashes)]
        for size, hashes in gram_hashes(text.hashes, sizes).items():
            table = self._tables[size]
            firsts, places = table.look_up(hashes)
            for first, place in zip(firsts.tolist(), places.tolist(), strict=True):
                items = self._exact(size, place).get(text.gram(first, size))
                if items:
                    yield Gram(items, first, size)

    def _tabulate(self, size: int) -> _Table:
        """The grams of this size: all n-grams, or the whole texts of items of fewer tokens."""
        lengths: Array = np.diff(self._firsts)
        items = np.flatnonzero(lengths >= size if size == self.n else lengths == size)
        runs = lengths[items] - size + 1
        item: Array = np.repeat(items, runs)
        firsts = np.arange(len(item)) - np.repeat(np.cumsum(runs) - runs, runs) + self._firsts[item]
        hashes = gram_hashes(self._words.hashes, [size])[size][firsts]
        order = np.lexsort((firsts, hashes))
        hashes, item, firsts = hashes[order], item[order], firsts[order]
        again: Array = np.zeros(len(hashes), dtype=bool)
        for place in np.flatnonzero((hashes[1:] == hashes[:-1]) & (item[1:] == item[:-1])).tolist():
            gram = self._words.gram(firsts[place + 1], size)
            before = place
            while before >= 0 and hashes[before] == hashes[place] and item[before] == item[place]:
                if self._words.gram(firsts[before], size) == gram:
                    again[place + 1] = True
                    break
                before -= 1
        hashes, item, firsts = hashes[~again], item[~again], firsts[~again]
        for number, count in zip(*(found.tolist() for found in np.unique(item, return_counts=True)), strict=True):
            self.counts[number] = count
        return _Table(hashes, item, firsts)

    def _exact(self, size: int, place: int) -> dict[tuple[str, ...], tuple[tuple[int, int], ...]]:
        """The grams whose hash is that of this place, and their items: equal hashes are no proof."""
        if (size, place) not in self._checked:
            table = self._tables[size]
            found: dict[tuple[str, ...], tuple[tuple[int, int], ...]] = {}
            for entry in range(place, int(np.searchsorted(table.hashes, table.hashes[place], side="right"))):
                item, first = int(table.items[entry]), int(table.firsts[entry])
                gram = self._words.gram(first, size)
                found[gram] = (*found.get(gram, ()), (item, first - int(self._firsts[item])))
            self._checked[size, place] = found
        return self._checked[size, place]


class _Table:
    """Grams of one size, sorted by hash: their items, and their first tokens in the joined text of all items."""

    def __init__(self, hashes: Array, items: Array, firsts: Array) -> None:
        self.hashes, self.items, self.firsts = hashes, items, firsts
        # Two flags for each value of some bits of a hash: they spare nearly all binary searches.
        self._bits = min(23, max(10, len(hashes).bit_length() + 5))
        self._high: Array = np.zeros(1 << self._bits, dtype=bool)
        self._low: Array = np.zeros(1 << self._bits, dtype=bool)
        self._high[self._slots(hashes, 64 - self._bits)] = True
        self._low[self._slots(hashes, 0)] = True

    def look_up(self, hashes: Array) -> tuple[Array, Array]:
        """Which of these hashes are in the table, and where they first are."""
        maybe = np.flatnonzero(self._high.take(self._slots(hashes, 64 - self._bits)))
        maybe = maybe[self._low.take(self._slots(hashes[maybe], 0))]
        places = np.minimum(np.searchsorted(self.hashes, hashes[maybe]), len(self.hashes) - 1)
        hit = self.hashes[places] == hashes[maybe]
        return maybe[hit], places[hit]

    def _slots(self, hashes: Array, shift: int) -> Array:
        return ((hashes >> np.uint64(shift)) & np.uint64((1 << self._bits) - 1)).view(np.int64)


@dataclass(order=True)
class Evidence:
    """The longest run of an item's grams in one document."""

    tokens: int
    document: Any = field(compare=False)
    text: str = field(compare=False)
    """As it stands in the document."""


@dataclass
class Found:
    """What documents hold of one item."""

    grams: set[int] = field(default_factory=set)
    documents: int = 0
    """Documents with at least one of its grams."""
    evidence: Evidence = field(default_factory=lambda: Evidence(0, None, ""))

    def add(self, later: Found) -> None:
        """Take in what later documents hold. Of equally long runs the first stays."""
        self.grams |= later.grams
        self.documents += later.documents
        self.evidence = max(self.evidence, later.evidence)


def scan(index: Index, documents: Iterable[tuple[Any, str]]) -> dict[int, Found]:
    """Look up the grams of all items in documents (key, text); returns what was found, by item.

    A document's keys may be anything; consecutive texts of one key are parts of one document (no gram is looked for
    across them). Memory does not grow with the number of documents.
    """
    found: dict[int, Found] = {}
    last: dict[int, Any] = {}
    for batch in _batches(documents):
        joined, bounds = _joined([text for _, text in batch])
        runs: dict[int, list[tuple[int, int, int]]] = {}  # item: (document's place, first token, token after the last)
        for gram in index.find(joined):
            start, end = joined.starts[gram.first], joined.ends[gram.first + gram.size - 1]
            place = int(np.searchsorted(bounds, start, side="right")) - 1
            if end > bounds[place + 1]:
                continue  # begins in one document and ends in the next
            for item, number in gram.items:
                found.setdefault(item, Found()).grams.add(number)
                spans = runs.setdefault(item, [])
                if spans and spans[-1][0] == place and gram.first < spans[-1][2]:
                    spans[-1] = (place, spans[-1][1], gram.first + gram.size)
                else:
                    spans.append((place, gram.first, gram.first + gram.size))
        for item, spans in runs.items():
            into = found[item]
            for place, first, after in spans:
                key = batch[place][0]
                if item not in last or last[item] != key:
                    into.documents += 1
                    last[item] = key
                text = joined.text[joined.starts[first] : joined.ends[after - 1]]
                into.evidence = max(into.evidence, Evidence(after - first, key, text))
    return found


def _joined(texts: Sequence[str]) -> tuple[Words, Array]:
    """The tokens of all texts together; and where in the joined text each begins, and where one more would."""
    composed = [_composed(text) for text in texts]
    return _words("\n".join(composed)), np.cumsum([0, *(len(text) + 1 for text in composed)])


def _batches(documents: Iterable[tuple[Any, str]]) -> Iterator[list[tuple[Any, str]]]:
    batch: list[tuple[Any, str]] = []
    size = 0
    for key, text in documents:
        batch.append((key, text))
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _mixed(values: Array) -> Array:
    """Spread over all bits (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_POWERS: list[tuple[Array, Array]] = []


def _powers(length: int) -> tuple[Array, Array]:
    """Powers of the base and of its inverse, at least `length` of each."""
    if not _POWERS or len(_POWERS[0][0]) < length:
        size = max(length, 2 * BATCH)
        inverse = pow(_BASE, -1, 1 << 64)
        both = []
        for base in (_BASE, inverse):
            factors: Array = np.full(size, base, dtype=np.uint64)
            factors[0] = 1
            both.append(np.cumprod(factors))
        _POWERS[:] = [(both[0], both[1])]
    return _POWERS[0]


@cache
def _table() -> Array:
    """By code point: what it is folded to, with _WORD or _ALONE added where it is of a token; 0 where it separates."""
    table: Array = np.zeros(_PLANES + 1, dtype=np.uint32)
    for low, high in _HAN:
        table[low : high + 1] = np.arange(low, high + 1, dtype=np.uint32) + _ALONE
    for code in np.flatnonzero(table[:-1] == 0).tolist():
        character = chr(code)
        if unicodedata.category(character)[0] not in "LMNS":  # of the symbols, some are letters in a circle
            continue
        plain = unicodedata.normalize("NFKC", character)
        plain = (plain if len(plain) == 1 else character).lower()
        plain = plain if len(plain) == 1 else character  # one for one, so that places in the text stay
        if unicodedata.category(plain)[0] in "LMN":
            table[code] = ord(plain) + (_ALONE if _alone(ord(plain)) else _WORD)
    return table


def _alone(code: int) -> bool:
    return any(low <= code <= high for low, high in (*_HAN, *_OTHER_LONE))
