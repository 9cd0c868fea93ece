"""Numbers in free text: signs, thousands, decimals, powers of ten, and for school problems fractions and percent.

Digits that belong to a word or an exponent (`CO2`, `m^2`) and counts of decimal places are no answer. A minus after a
digit, letter or bracket is an operator, not a sign. The rules are ours: the report gives none.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

SIGN = r"(?P<sign>(?<![0-9A-Za-z)\]}%])[-+−])?(?<![0-9A-Za-z_^.])(?<!\^\{)"
DECIMAL = r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
POWER = (
    r"(?:[eE](?P<e>[-+]?[0-9]{1,3})(?![0-9A-Za-z]|\.[0-9])"
    r"|\s*(?:×|\\times|\*|x)\s*10\s*(?:\^|\*\*)\s*\{?(?P<ten>[-+−]?[0-9]{1,3})\}?(?![0-9]))?"
)
NUMBER = re.compile(rf"{SIGN}(?:\\?[$€£¥￥]\s?)?{DECIMAL}{POWER}")
FRACTION = r"(?:(?P<whole>[0-9]{1,18})又)?(?P<over>[0-9]{1,18})\s*/\s*(?P<under>0*[1-9][0-9]{0,17})(?![0-9.])"
VALUE = re.compile(rf"{SIGN}(?:{FRACTION}|{DECIMAL}{POWER})\s*(?P<percent>[%％])?")
PLACES = re.compile(r"\s*(?:decimal|significant|位小数|位有效)")
"""What follows a count of digits, such as "rounded to 4 decimal places"."""
WRITINGS = (
    (r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3})", ","),
    (r"\\%", "%"),
    (r"(?<=[0-9])\s*\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}", r"又\1/\2"),
    (r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}", r"\1/\2"),
    (r"(?<=[0-9])\(\(([0-9]+)\)/\(([0-9]+)\)\)", r"又\1/\2"),
    (r"\(\(([0-9]+)\)/\(([0-9]+)\)\)", r"\1/\2"),
    (r"百分之\s*([0-9]+(?:\.[0-9]+)?)", r"\1%"),
    (r"([0-9]+)\s*分之\s*([0-9]+)", r"\2/\1"),
)
"""Other ways to write the same: TeX's, Math23K's ((2)/(3)), and Chinese ones."""


def last_number(text: str) -> Decimal | None:
    """The last number of a text, exactly as it is written; a percent sign or a unit changes nothing."""
    found = _last(NUMBER, text)
    return None if found is None else _decimal(found)


def last_value(text: str) -> Fraction | None:
    """The last number, fraction (`2/3`, `5又7/10`) or percentage of a text, as what it is worth: 15 % is 3/20."""
    found = _last(VALUE, text)
    if found is None:
        return None
    if found["over"] is None:
        worth = Fraction(_decimal(found))
    else:
        worth = int(found["whole"] or 0) + Fraction(int(found["over"]), int(found["under"]))
        worth = -worth if found["sign"] in ("-", "−") else worth
    return worth / 100 if found["percent"] else worth


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    for writing, usual in WRITINGS:
        text = re.sub(writing, usual, text)
    matches = [match for match in pattern.finditer(text) if not PLACES.match(text, match.end())]
    return matches[-1] if matches else None


def _decimal(found: re.Match[str]) -> Decimal:
    sign = "-" if found["sign"] in ("-", "−") else ""
    power = (found["e"] or found["ten"] or "0").replace("−", "-")
    return Decimal(f"{sign}{found['digits'].replace(',', '')}e{power}")
