"""Planted overlaps, and everything found against a search that compares every place with every other.

Not covered: whether 13 words are the right measure of contamination.
"""

from __future__ import annotations

import random
import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import contamination
from harness.contamination import BATCH, SHORTEST, Index, pieces, scan, tokens

ALPHABET = [
    *("tide", "rose", "over", "grey", "stone", "while", "small", "boats"),
    *("came", "home", "before", "the", "evening", "bell", "rang", "twice"),
]


def sentence(seed: int, length: int, words: list[str] = ALPHABET) -> list[str]:
    draw = random.Random(seed)
    return [draw.choice(words) for _ in range(length)]


def plain_tokens(text: str) -> list[str]:
    """The rule by a regular expression; only for letters that it knows."""
    return re.findall(r"[一-鿿぀-ヿ]|[^\W_一-鿿぀-ヿ]+", unicodedata.normalize("NFC", text).lower())


def plain_search(items: list[str], documents: list[str], n: int) -> dict[int, tuple[int, int, int, int]]:
    """Item: (distinct grams, those found, documents with any, tokens of the longest run), comparing lists of words."""
    found = {}
    texts = [plain_tokens(document) for document in documents]
    for number, item in enumerate(map(plain_tokens, items)):
        size = min(n, len(item))
        if size < SHORTEST:
            continue
        grams = []
        for first in range(len(item) - size + 1):
            if item[first : first + size] not in grams:
                grams.append(item[first : first + size])
        seen, inside, longest = [], 0, 0
        for text in texts:
            hits = [place for place in range(len(text) - size + 1) if text[place : place + size] in grams]
            seen += [text[place : place + size] for place in hits]
            inside += bool(hits)
            covered = {place + step for place in hits for step in range(size)}
            run = after = 0
            for place in sorted(covered):
                # a run ends where no gram of the item covers both neighbours
                joined = any(hit < place < hit + size for hit in hits)
                run = run + 1 if joined and place == after else 1
                after = place + 1
                longest = max(longest, run)
        if inside:
            found[number] = (len(grams), sum(gram in seen for gram in grams), inside, longest)
    return found


def ours(items: list[str], documents: list[str], n: int) -> dict[int, tuple[int, int, int, int]]:
    index = Index(items, n)
    return {
        item: (index.counts[item], len(found.grams), found.documents, found.evidence.tokens)
        for item, found in scan(index, enumerate(documents)).items()
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't  STOP!", ["don", "t", "stop"]),
        ("snake_case, x1 = 3.14", ["snake", "case", "x1", "3", "14"]),
        ("４月，Ｇｒｏßes Café", ["4", "月", "großes", "café"]),
        ("Cafe\u0301", ["café"]),
        ("大語言模型 GPT4", ["大", "語", "言", "模", "型", "gpt4"]),
        ("カタカナとﾊﾝｶｸ", list("カタカナとハンカク")),
        ("한국어 हिन्दी", ["한국어", "हिन्दी"]),
        ("İstanbul x² \U0001d54f \udc80 \U000e0041", ["İstanbul", "x2", "x"]),
        (" \n—。", []),
        ("", []),
    ],
)
def test_tokens_worked_out_by_hand(text, expected):
    assert tokens(text) == expected


def test_every_code_point_keeps_its_place():
    """Folding is one for one, so that what is shown is what matched."""
    everything = "".join(f"{chr(code)} " for code in range(0x32500) if not 0xD800 <= code < 0xE000)
    found = contamination.words(everything)
    assert len(found.text) == len(found.folded)
    assert all(end - start > 0 for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True))


PLANTED = " ".join(sentence(1, 20, [f"w{number}" for number in range(1000)]))


@pytest.mark.parametrize(
    ("inside", "share"),
    [
        (PLANTED, 1.0),
        (PLANTED.upper(), 1.0),
        (PLANTED.replace(" ", ",\n -- "), 1.0),
        (" ".join(PLANTED.split()[:13]), 1 / 8),
        (" ".join(PLANTED.split()[3:17]), 2 / 8),
        (" ".join(PLANTED.split()[:12]), 0.0),
        (" ".join([*PLANTED.split()[:6], "new", *PLANTED.split()[6:]]), 2 / 8),
    ],
)
def test_planted_overlaps(inside, share):
    index = Index([PLANTED, "something else of which there are enough words to look for them in any document here"])
    noise = " ".join(sentence(2, 5000))
    found = scan(index, [("a", noise), ("b", f"{noise} {inside} {noise}"), ("c", noise)])
    assert set(found) == ({0} if share else set())
    if share:
        assert len(found[0].grams) / index.counts[0] == share
        assert found[0].evidence.document == "b" and found[0].documents == 1
        assert len(tokens(found[0].evidence.text)) == found[0].evidence.tokens == 12 + round(8 * share)
        assert found[0].evidence.text in inside


def test_chinese_is_found_by_characters_whatever_its_punctuation():
    item = "小明有12个苹果，给了小红3个，又买了5个。他现在有几个苹果？"
    index = Index([item])
    found = scan(index, [(1, "前言：小明有１２个苹果、给了小红3个；又买了5个！他现在有几个苹果 后记")])
    assert len(found[0].grams) == index.counts[0] == len(plain_tokens(item)) - 12
    assert not scan(index, [(1, "小红有12个苹果，给了小明3个，又买了5个")])


def test_short_items_are_looked_for_whole():
    index = Index(["one two three four five six seven eight", "one two three four five six seven"])
    assert index.counts == [1, 0] and index.lengths == [8, 7]
    assert scan(index, [(1, "and ONE two three four five six seven eight nine")])[0].grams == {0}
    assert not scan(index, [(1, "one two three four five six seven nine")])


def test_nothing_is_found_across_documents_nor_in_none():
    words = PLANTED.split()
    index = Index([PLANTED])
    assert not scan(index, [(1, " ".join(words[:12])), (2, " ".join(words[12:]))])
    assert not scan(index, [])
    assert not scan(Index([]), [(1, PLANTED)])
    assert not scan(index, [(1, ""), (2, "。")])


def test_no_false_positives_in_ten_thousand_documents_of_the_same_words():
    index = Index([" ".join(sentence(seed, 40)) for seed in range(200)])
    documents = (" ".join(sentence(seed, 40)) for seed in range(1000, 11_000))
    assert not scan(index, enumerate(documents))


texts = st.lists(
    st.lists(st.sampled_from(["a", "B", "b,", "c", "天", "地。", "é"]), max_size=40).map(" ".join), max_size=6
)


@settings(deadline=None, max_examples=150)
@given(texts, texts, st.integers(SHORTEST, 10))
def test_all_is_found_that_comparing_everything_finds(items, documents, n):
    documents = documents + items[:2]
    assert ours(items, documents, n) == plain_search(items, documents, n)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_equal_hashes_are_no_proof(seed, bits):
    """With hashes of a few bits nearly everything collides, and the answer is the same."""
    items = [" ".join(sentence(seed + number, 16, list("abc"))) for number in range(5)]
    documents = [" ".join(sentence(seed + 9, 300, list("abc"))), *items[:2]]
    mixed = contamination._mixed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contamination, "_mixed", lambda values: mixed(values) & contamination.np.uint64((1 << bits) - 1))
        assert ours(items, documents, 9) == plain_search(items, documents, 9)


@settings(deadline=None, max_examples=60)
@given(texts, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_a_text_in_pieces_holds_what_the_whole_does(documents, steps):
    whole = " ".join(documents)
    blocks = []
    place = 0
    while place < len(whole):
        step = steps[len(blocks) % len(steps)]
        blocks.append(whole[place : place + step])
        place += step
    cut = list(pieces(blocks, 9))
    index = Index([*documents, whole], 9)
    one, many = scan(index, [(1, whole)]), scan(index, ((1, piece) for piece in cut))
    assert {item: (found.grams, found.documents) for item, found in one.items()} == {
        item: (found.grams, found.documents) for item, found in many.items()
    }
    assert max(map(len, cut)) <= 2 * 9 + 2 * max(steps) + 30  # the longest token is of a few characters


def test_a_token_at_the_end_of_a_block_goes_on_in_the_next():
    text = " ".join(f"word{number}" for number in range(60))
    index = Index([text])
    for cut in range(100, 140):
        assert len(scan(index, ((1, piece) for piece in pieces([text[:cut], text[cut:]], 13)))[0].grams) == 48


@pytest.mark.parametrize("filling", ["x", "-", "x" * 300 + " "])
def test_text_without_separators_is_not_hashed_again_and_again(monkeypatch, filling):
    hashed = []
    words = contamination.words
    monkeypatch.setattr(contamination, "CARRIED", 400)
    monkeypatch.setattr(contamination, "words", lambda text: (hashed.append(len(text)), words(text))[1])
    first, second, third = (" ".join(sentence(seed, 14)) for seed in (1, 2, 3))
    text = f"{first} {filling * (6000 // len(filling))} {second} {third[:40]}"
    cut = list(pieces([text[place : place + 100] for place in range(0, len(text), 100)], 13))
    assert max(hashed) <= 500
    found = scan(Index([first, second, third]), ((1, piece) for piece in cut))
    assert {item: len(one.grams) for item, one in found.items()} == {0: 2, 1: 2}


def test_speed():
    """Tens of MB a second of processor time; printed with `-s`."""
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(1, 9))) for _ in range(5000)]
    index = Index([" ".join(sentence(seed, 60, vocabulary)) for seed in range(3000)])
    documents = [" ".join(sentence(seed, 400, vocabulary)) for seed in range(3000, 7000)]
    size = sum(map(len, documents)) / 1e6
    scan(index, enumerate(documents[:100]))
    begin = time.process_time()
    found = scan(index, enumerate([*documents, " ".join(sentence(5, 60, vocabulary))]))
    rate = size / (time.process_time() - begin)
    print(f"{size:.1f} MB, {rate:.0f} MB/s of processor time")
    assert size * 1e6 > 10 * BATCH and list(found) == [5] and len(found[5].grams) == index.counts[5]
    assert rate > 5  # a busy machine is no failure; 10 times slower would be
