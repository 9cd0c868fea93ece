"""How often four ways to compare answers are wrong on the labelled pairs; prints the table of docs/protocols.md.

    python -m tests.bench.math_pairs

The pairs are ours. `math_pairs.jsonl` was written before any checker was tried; what it showed of ours was mended.
`math_pairs_later.jsonl` was written afterwards, and nothing was mended for it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

from tasks.math_equal import equal
from tasks.math_strings import hendrycks_equal, minerva

DATA = Path(__file__).parents[1] / "data"
FILES = ("math_pairs.jsonl", "math_pairs_later.jsonl")


def pairs(name: str) -> list[dict[str, str | bool]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def math_verify_alone(gold: str, answer: str) -> bool:
    """With its defaults."""
    from math_verify import parse, verify

    return verify(parse(f"${gold}$"), parse(f"${answer}$"))


@functools.cache
def robust(gold: str, answer: str) -> bool:
    return equal(gold, answer).equal


CHECKERS: dict[str, Callable[[str, str], bool]] = {
    "strict (Hendrycks's strings)": lambda gold, answer: hendrycks_equal(answer, gold),
    "minerva (appendix D's strings)": lambda gold, answer: minerva(answer) == minerva(gold),
    "math-verify 0.9.0 by itself": math_verify_alone,
    "robust": robust,
}


def mistakes(checker: Callable[[str, str], bool], name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(different pairs taken for equal, equal pairs taken for different)."""
    found: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for pair in pairs(name):
        if checker(str(pair["a"]), str(pair["b"])) != pair["equal"]:
            found[bool(pair["equal"])].append((str(pair["a"]), str(pair["b"])))
    return found[False], found[True]


def table() -> str:
    sizes = [sum(bool(pair["equal"]) for pair in pairs(name)) for name in FILES]
    heads = [f"{kind} of {size}" for size in sizes for kind in ("taken for equal,", "taken for different,")]
    rows = ["| rule | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for title, checker in CHECKERS.items():
        counts = [str(len(wrong)) for name in FILES for wrong in mistakes(checker, name)]
        rows.append(f"| {title} | " + " | ".join(counts) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
