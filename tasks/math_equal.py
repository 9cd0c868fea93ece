"""Whether two mathematical answers are equal: cheap exact rules first, computer algebra for what they leave open."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tasks.math_form import LONGEST, Form, read, tidy
from tasks.math_units import clash
from tasks.math_workers import POOL, Answer

Layer = Literal["text", "unit", "number", "word", "structure", "algebra", "length"]
Compare = Callable[[str, str], Answer]
LISTED = 12
"""Items of a set that are compared each with each."""
PATIENCE = 4.0
"""Processor seconds after which algebra is asked nothing more about a pair of answers."""


@dataclass(frozen=True)
class Decision:
    """The result, the layer that decided, and what the algebra system said where it was asked."""

    equal: bool
    layer: Layer
    algebra: str | None = None


def equal(gold: str, answer: str, compare: Compare | None = None) -> Decision:
    """Compares an answer with the gold one; `compare` stands in for the workers. Raises TaskError without workers."""
    if len(gold) > LONGEST or len(answer) > LONGEST:
        return Decision(gold.strip() == answer.strip(), "length")
    one, other = tidy(gold), tidy(answer)
    if one == other:
        return Decision(True, "text")
    return _Comparison(compare or POOL.compare).decide(read(one), read(other))


class _TooHard(Exception):
    """Algebra ran out of time or memory: nothing more is asked of it for this pair."""


@dataclass
class _Comparison:
    compare: Compare
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)

    def decide(self, gold: Form, answer: Form) -> Decision:
        try:
            same, layer = self.same(gold, answer)
        except _TooHard:
            same, layer = False, "algebra"
        return Decision(same, "algebra" if self.said else layer, self.said[-1] if self.said else None)

    def same(self, gold: Form, answer: Form) -> tuple[bool, Layer]:
        gold, answer = _unnamed(gold, answer)
        if clash(gold.unit, answer.unit):
            return False, "unit"
        kinds = gold.kind, answer.kind
        if kinds == ("expression", "expression") and gold.text == answer.text:
            return True, "text"
        if kinds == ("number", "number"):
            return _numbers(gold, answer), "number"
        if kinds == ("word", "word"):
            return gold.text == answer.text or set(gold.text.split()) == {*answer.text.split()}, "word"
        if kinds == ("based", "based"):
            return gold.text == answer.text, "word"
        if kinds == ("equation", "equation") and gold.name != answer.name:
            return False, "structure"
        if kinds in (("sequence", "sequence"), ("matrix", "matrix"), ("equation", "equation")):
            return self._in_order(gold, answer), "structure"
        if kinds in (("collection", "collection"), ("union", "union")):
            return self._in_any_order(gold.parts, answer.parts), "structure"
        if _apart(gold, answer) or _apart(answer, gold):
            return False, "structure"
        return self._algebra(gold, answer), "algebra"

    def _in_order(self, gold: Form, answer: Form) -> bool:
        names = gold.name, answer.name
        # brackets must agree; so must the variables of two inequalities
        if gold.kind == "sequence" and (
            names[0][:2] != names[1][:2] or (all(n[2:] for n in names) and len(set(names)) > 1)
        ):
            return False
        pairs = list(zip(gold.parts, answer.parts, strict=False))
        return len(gold.parts) == len(answer.parts) and all(self.same(*pair)[0] for pair in pairs)

    def _in_any_order(self, gold: tuple[Form, ...], answer: tuple[Form, ...]) -> bool:
        left = list(answer)
        if len(gold) != len(left) or len(left) > LISTED:
            return False
        for item in gold:
            found = next((place for place, other in enumerate(left) if self.same(item, other)[0]), None)
            if found is None:
                return False
            del left[found]
        return True

    def _algebra(self, gold: Form, answer: Form) -> bool:
        if self.seconds > PATIENCE:
            self.said.append("timeout")
            raise _TooHard
        outcome, seconds = self.compare(_imaginary(gold.text), _imaginary(answer.text))
        self.said.append(outcome)
        self.seconds += seconds
        if outcome in ("timeout", "memory", "killed"):
            raise _TooHard
        return outcome == "equal"


def _unnamed(gold: Form, answer: Form) -> tuple[Form, Form]:
    """Without the "x =" that only one of the two has."""
    if gold.kind == "equation" != answer.kind and "=" not in answer.text:
        return gold.parts[0], answer
    if answer.kind == "equation" != gold.kind and "=" not in gold.text:
        return gold, answer.parts[0]
    return gold, answer


def _imaginary(text: str) -> str:
    """With I for an i that stands alone, which is how math-verify writes the imaginary unit."""
    return re.sub(r"(?<![a-zA-Z\\_])i(?![a-zA-Z])", "I", text)


def _numbers(gold: Form, answer: Form) -> bool:
    if gold.value == answer.value:
        return True  # also of 25 and 25%: where a percentage is asked for, the sign is a unit
    percent = gold.unit == "%", answer.unit == "%"
    return gold.value * (100 if percent == (False, True) else 1) == answer.value * (
        100 if percent == (True, False) else 1
    )


def _apart(one: Form, other: Form) -> bool:
    """Kinds that no algebra makes equal."""
    if one.kind in ("word", "based"):
        return other.kind != "expression" and other.kind != "word"
    if one.kind == "sequence":
        return other.kind in ("number", "based")
    return one.kind == "number" and other.kind in ("matrix", "union", "collection") and len(other.parts) != 1
