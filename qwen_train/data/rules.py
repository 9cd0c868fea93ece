"""Rules that drop a document, each with a name and a limit (our choice: the report says only that there are rules).

Limits for prose follow Rae et al., arXiv 2112.11446, table A1 (Gopher), for code Li et al., arXiv 2305.06161
(StarCoder), where they name one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.contamination import Words, gram_hashes, words

TEXT, CODE, INSTRUCTION = "text", "code", "instruction"
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
Array = Any
_HAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
_GENERATED = re.compile(r"auto-?generated|generated (?:by|from)|do not edit", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"lorem ipsum|enable javascript|javascript is (?:disabled|required)", re.IGNORECASE)


class Facts:
    """What the rules look at, each worked out once."""

    def __init__(self, text: str, language: str) -> None:
        self.text, self.language = text, language

    @cached_property
    def words(self) -> Words:
        """Tokens as `harness.contamination` reads them: a Chinese character is one."""
        return words(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not empty."""
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @cached_property
    def spaced(self) -> list[str]:
        """What blanks separate."""
        return self.text.split()


def _word_length(facts: Facts) -> float:
    """Of the words of several letters' scripts; 5 if there are none."""
    found = facts.words if facts.text.isascii() else words(_HAN.sub(" ", facts.text))
    return float((found.ends - found.starts).mean()) if len(found) else 5.0


def _lettered(facts: Facts) -> float:
    """Share of the words with a letter."""
    return sum(_LETTER.search(word) is not None for word in facts.spaced) / max(1, len(facts.spaced))


def _symbols(facts: Facts) -> float:
    """Hash marks and ellipses to words."""
    return (facts.text.count("#") + facts.text.count("...") + facts.text.count("…")) / max(1, len(facts.words))


def _repeated_lines(facts: Facts) -> float:
    """Share of the characters in lines that stood there before; brackets and rules alone are no text."""
    whole, once = sum(map(len, facts.lines)), sum(map(len, set(facts.lines)))
    return 1 - once / max(1, whole)


def _share_of_lines(test: Callable[[str], bool]) -> Callable[[Facts], float]:
    return lambda facts: sum(map(test, facts.lines)) / max(1, len(facts.lines))


def _stop_words(facts: Facts) -> float:
    """Distinct English stop words; enough of them in another language."""
    return len(STOP_WORDS & set(facts.text.lower().split())) if facts.language == "en" else len(STOP_WORDS)


def _repeated_paragraphs(facts: Facts) -> float:
    pieces = re.split(r"\n\s*\n", facts.text)
    return 1 - len(set(pieces)) / len(pieces)


def _repeated_grams(facts: Facts, size: int = 10) -> float:
    """Share of the words in runs of ten that stood there before."""
    count = len(facts.words)
    if count < 2 * size:
        return 0.0
    grams = gram_hashes(facts.words.hashes, [size])[size]
    again: Array = np.ones(len(grams), dtype=np.int64)
    again[np.unique(grams, return_index=True)[1]] = 0
    edges: Array = np.zeros(count + 1, dtype=np.int64)
    edges[: len(grams)] += again
    edges[size : size + len(grams)] -= again
    return float((np.cumsum(edges)[:-1] > 0).mean())


def _top_pair(facts: Facts) -> float:
    """Share of the words in the commonest pair of words."""
    grams = gram_hashes(facts.words.hashes, [2])[2]
    return 2 * int(np.unique(grams, return_counts=True)[1].max()) / len(facts.words) if len(grams) else 0.0


def _mean_line(facts: Facts) -> float:
    return sum(map(len, facts.lines)) / max(1, len(facts.lines))


def _plain(facts: Facts) -> float:
    """Share of the characters that are letters or digits."""
    return sum(map(str.isalnum, facts.text)) / max(1, len(facts.text))


@dataclass(frozen=True)
class Rule:
    """Drops a document whose measure is below `least` or above `most`; one of them is a number, the default limit."""

    name: str
    kinds: tuple[str, ...]
    measure: Callable[[Facts], float]
    least: float | None = None
    most: float | None = None


PROSE = (TEXT,)
RULES = (
    Rule("few words", PROSE, lambda facts: len(facts.words), least=50),
    Rule("few code words", (CODE,), lambda facts: len(facts.words), least=10),
    Rule("many words", (TEXT, CODE), lambda facts: len(facts.words), most=1_000_000),
    Rule("short words", PROSE, _word_length, least=3),
    Rule("long words", PROSE, _word_length, most=10),
    Rule("few letters", PROSE, _lettered, least=0.6),
    Rule("symbols", PROSE, _symbols, most=0.1),
    Rule("bullets", PROSE, _share_of_lines(lambda line: line[0] in "•‣▶●◦*-·"), most=0.9),
    Rule("ellipses", PROSE, _share_of_lines(lambda line: line.endswith(("...", "…"))), most=0.3),
    Rule("few stop words", PROSE, _stop_words, least=2),
    Rule("repeated lines", PROSE, _repeated_lines, most=0.3),
    Rule("repeated paragraphs", PROSE, _repeated_paragraphs, most=0.3),
    Rule("repeated words", PROSE, _repeated_grams, most=0.3),
    Rule("one pair of words", PROSE, _top_pair, most=0.2),
    Rule("placeholder", PROSE, lambda facts: bool(_PLACEHOLDER.search(facts.text)), most=0),
    Rule("long line", (CODE,), lambda facts: max(map(len, facts.lines), default=0), most=1000),
    Rule("long lines", (CODE,), _mean_line, most=100),
    Rule("few plain characters", (CODE,), _plain, least=0.25),
    Rule("generated", (CODE,), lambda facts: bool(_GENERATED.search(facts.text[:500])), most=0),
)


def broken(facts: Facts, kind: str, limits: dict[str, float | None]) -> list[str]:
    """The rules that drop the document, each with what was measured; `limits` are others than the rules' own."""
    found = []
    for rule in RULES:
        own = rule.least if rule.most is None else rule.most
        limit = limits.get(rule.name, own)
        if kind not in rule.kinds or limit is None:
            continue
        value = rule.measure(facts)
        if value < limit if rule.most is None else value > limit:
            found.append(f"{rule.name}: {value:.4g}")
    return found
