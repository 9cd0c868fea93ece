"""What a mathematical answer is, as far as its text says so without algebra: a number, a word, a tuple, a set, ...

Text is matched against patterns and never evaluated. Whatever fits none is an `expression`, for computer algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tasks.math_units import split_unit

Kind = Literal["number", "word", "based", "equation", "sequence", "collection", "union", "matrix", "expression"]
LONGEST = 4000
"""Characters; a longer answer is no answer."""
DEEPEST = 8

SYMBOLS = str.maketrans(
    {
        "（": "(",
        "）": ")",
        "，": ",",
        "、": ",",
        "：": ":",
        "；": ";",
        "＝": "=",
        "％": "%",
        "．": ".",
        "−": "-",
        "–": "-",
    }
    | {"π": "\\pi ", "∞": "\\infty ", "×": "\\times ", "·": "\\cdot ", "≤": "\\le ", "≥": "\\ge ", "∪": "\\cup "}
    | {"∈": "\\in ", "±": "\\pm ", "°": "^\\circ ", "²": "^2", "³": "^3", "\n": " ", "\t": " "}
)
ALIASES = (
    (r"\\(?:boxed|fbox)\s*\{(.*)\}", r"\1"),
    (r"(?<=\d)(?:\\[,;:!]|,\\!|\{,\})(?=\d{3}(?!\d))", ","),
    (r"\\!|\\(?:left|right|displaystyle|big|Big|limits)(?![a-zA-Z])\.?", ""),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|~", " "),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\frac\s*(\w)\s*(\w|(?=\{))", r"\\frac{\1}{\2}"),
    (r"(\\frac\{\w\})\{\}(?=\{)", r"\1"),
    (r"(\\frac\s*\{[^{}]*\})\s*(\w)", r"\1{\2}"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\\le(?:q|qslant)?(?![a-zA-Z])", r"\\le "),
    (r"\\ge(?:q|qslant)?(?![a-zA-Z])", r"\\ge "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\(?:mbox|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|hbox)\s*\{", r"\\text{"),
    (r"\\text\s*\{", r"\\text{"),
    (r"\\emptyset|\\varnothing", r"\\emptyset "),
    (r"\\?\$", ""),
    (r"\+\s*\\infty", r"\\infty"),
    (r"[ ]+", " "),
)
PREFIX = re.compile(r"(?:the answer is|answer:|答案(?:是|为|:)|故|所以)\s*", re.IGNORECASE)
NAME = r"(?:\\?[A-Za-z]+|[A-Za-z])(?:_\{?\w+\}?)?'?"
WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
DECIMAL = rf"(?:{WHOLE}(?:\.\d*)?|\.\d+)"
POWER_OF_TEN = r"(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*([+-]?\d{1,4})\s*\}|([+-]?\d))|[eE]([+-]?\d{1,4}))"
NUMBER = re.compile(rf"([+-]?)\s*({DECIMAL}){POWER_OF_TEN}?")
RATIO = re.compile(
    rf"([+-]?)\s*({WHOLE})?\s*(?:\\frac\s*\{{\s*(-?{WHOLE})\s*\}}\s*\{{\s*(-?{WHOLE})\s*\}}"
    rf"|(?:(?<=\d)\s|(?<!\d))(-?{WHOLE})\s*/\s*({WHOLE}))"
)
MATRIX = re.compile(r"\\begin\{([pbB]?matrix)\}(.*)\\end\{\1\}")
RANGE = re.compile(r"(?:([^<>]+?)(<|\\le |>|\\ge ))?\s*([A-Za-z])\s*(<|\\le |>|\\ge )([^<>]+)")
LESS = ("<", "\\le ")
TURNED = re.compile(r"([^<>]+?)(<|\\le |>|\\ge )\s*([A-Za-z])\s*")


@dataclass(frozen=True, kw_only=True)
class Form:
    """An answer. `text` is LaTeX without its unit; which other fields count follows from the kind."""

    kind: Kind
    text: str
    unit: str = ""
    value: Fraction = Fraction(0)
    name: str = ""
    """An equation's left side, a range's variable, a sequence's brackets."""
    parts: tuple[Form, ...] = ()


def tidy(text: str) -> str:
    """One spelling for what is written in many."""
    text = text.translate(SYMBOLS).strip()
    for pattern, replacement in ALIASES:
        text = re.sub(pattern, replacement, text)
    text = re.sub(r"^\\[(\[](.*)\\[)\]]$", r"\1", text.strip())
    text = PREFIX.sub("", text.strip(), count=1) if PREFIX.match(text.strip()) else text.strip()
    return text.rstrip(" .。,;*").lstrip(" *:")


def read(text: str, depth: int = 0) -> Form:
    """The form of a tidied text."""
    text = text.strip()
    if depth < DEEPEST:
        form = _structure(text, depth)
        if form is not None:
            return form
    body, unit = split_unit(text)
    value = number(body)
    if value is not None:
        return Form(kind="number", text=body, unit=unit, value=value)
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    choice = re.fullmatch(r"\(?([A-Z])\)?", plain)
    if choice and ("text" in text or "(" in text or len(plain) == 1):
        return Form(kind="word", text=choice[1])
    if re.fullmatch(r"(?!(?:sin|cos|tan|log|ln|exp|pi)\b)[^\W\d_][^\W\d_'’.\-]+(?:[ ,'’-]+[^\W\d_]+)*", plain) and (
        "\\text" in text or len(plain) > 2 or not plain.isascii()
    ):
        return Form(kind="word", text=" ".join(plain.casefold().split()))
    if not plain.isascii() and re.fullmatch(r"[^\W\d_]+", plain):
        return Form(kind="word", text=plain)
    based = re.fullmatch(r"0*([0-9A-F]+)_\{?(?:\\text\{)?(\d+|[a-z]+)\}{0,2}", body.replace(" ", ""))
    if based:
        return Form(kind="based", text=f"{based[1]}_{based[2]}")
    return Form(kind="expression", text=body, unit=unit)


def number(text: str) -> Fraction | None:
    """The exact value of a decimal, fraction, mixed number or power of ten; None for anything else."""
    text = text.strip()
    text = text[1:-1] if re.fullmatch(r"\{[^{}]*\}", text) else text
    if len(text) > 1000:
        return None
    found = NUMBER.fullmatch(text)
    if found:
        exponent = int(found[3] or found[4] or found[5] or 0)
        digits = found[2].replace(",", "").removesuffix(".")
        return Fraction(f"{found[1]}{digits}") * Fraction(10) ** exponent
    found = RATIO.fullmatch(text)
    if not found:
        return None
    upper, lower = ((found[3] or found[5]).replace(",", ""), (found[4] or found[6]).replace(",", ""))
    if int(lower) == 0:
        return None
    ratio = Fraction(int(upper), int(lower))
    if found[2]:
        if ratio < 0:
            return None
        ratio += int(found[2].replace(",", ""))
    return -ratio if found[1] == "-" else ratio


def split(text: str, separator: str) -> list[str]:
    """The pieces between separators (a pattern) that no bracket encloses."""
    pieces, start, depth, place = [], 0, 0, 0
    pattern = re.compile(separator)
    while place < len(text):
        found = pattern.match(text, place) if depth <= 0 else None
        if found and found.end() > place:
            pieces.append(text[start:place])
            start = place = found.end()
            continue
        if text.startswith("\\begin", place):
            depth += 1
        elif text.startswith("\\end", place):
            depth -= 1
        depth += (text[place] in "([{") - (text[place] in ")]}")
        place += 1
    return [*pieces, text[start:]]


def _structure(text: str, depth: int) -> Form | None:
    def forms(pieces: list[str]) -> tuple[Form, ...]:
        return tuple(read(piece, depth + 1) for piece in pieces)

    text = re.sub(r"^[A-Za-z]\s*\\in\s*(?![A-Za-z])", "", text)
    matrix = MATRIX.fullmatch(text)
    if matrix and "\\begin" not in matrix[2]:
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[2].strip()) if row.strip()]
        parts = tuple(Form(kind="sequence", text="", name="row", parts=forms(row)) for row in rows)
        return Form(kind="matrix", text=text, parts=parts)
    pieces = split(text, r"\\cup(?![a-zA-Z])")
    if len(pieces) > 1:
        parts = forms(pieces)
        if all(part.kind == "collection" for part in parts):
            return Form(kind="collection", text=text, parts=tuple(item for part in parts for item in part.parts))
        return Form(kind="union", text=text, parts=parts)
    inner = _enclosed(text)
    if inner is not None and text.startswith("\\{"):
        return Form(kind="collection", text=text, parts=forms(split(inner, ",")) if inner.strip() else ())
    if inner is not None and number(inner) is None:
        pieces = split(inner, ",")
        if len(pieces) > 1 and all(piece.strip() for piece in pieces):
            return Form(kind="sequence", text=text, name=text[0] + text[-1], parts=forms(pieces))
    if number(text) is None:
        pieces = split(text, r",?\s*(?:\\text\{\s*(?:and|or)\s*\}|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|和|或)|[,;]")
        if len(pieces) > 1 and all(piece.strip() for piece in pieces) and any(c.isdigit() for c in text):
            return Form(kind="collection", text=text, parts=tuple(_spread(forms(pieces))))
    spread = split(text, r"\\pm(?![a-zA-Z])")
    if len(spread) == 2 and spread[1].strip():
        first, second = spread
        return Form(kind="collection", text=text, parts=forms([f"{first}+{second}".lstrip("+ "), f"{first}-{second}"]))
    sides = split(text, r"(?<![<>\\])=")
    if len(sides) == 2 and re.fullmatch(rf"{NAME}(?:\([a-z](?:,\s*[a-z])*\))?", sides[0].strip()) and sides[1].strip():
        name = sides[0].replace(" ", "")
        return Form(kind="equation", text=text, name=name, parts=forms(sides[1:]))
    return _range(text, forms)


def _enclosed(text: str) -> str | None:
    """What is between brackets that open first and close last."""
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing):
            inner = text[len(opening) : -len(closing)]
            depth = 0
            for character in inner:
                depth += (character in "([{") - (character in ")]}")
                if depth < 0:
                    return None
            return inner if depth == 0 else None
    return None


def _spread(parts: tuple[Form, ...]) -> list[Form]:
    """Items of collections inside a list (1 \\pm 2, 5) as items of the list."""
    return [item for part in parts for item in (part.parts if part.kind == "collection" else (part,))]


def _range(text: str, forms: Callable[[list[str]], tuple[Form, ...]]) -> Form | None:
    """An inequality in one variable as an interval that has the variable in its name."""
    low = first = None
    found = RANGE.fullmatch(text)
    if found:
        low, first, name, second, high = found.groups()
    else:
        found = TURNED.fullmatch(text)
        if not found:
            return None
        high, name = found[1], found[3]
        second = {"<": ">", ">": "<", "\\le ": "\\ge ", "\\ge ": "\\le "}[found[2]]
    if low is not None and first is not None:
        if (first in LESS) != (second in LESS):
            return None
        if first not in LESS:
            low, first, second, high = high, second, first, low
    elif second in LESS:
        low, first = "-\\infty", "<"
    else:
        low, first, second, high = high, second, ">", "\\infty"
    brackets = ("(" if first in "<>" else "[") + (")" if second in "<>" else "]")
    return Form(kind="sequence", text=text, name=brackets + name, parts=forms([low, high]))
