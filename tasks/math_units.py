"""Units at the end of an answer: which there are, what their names have in common, and which cannot be one another."""

from __future__ import annotations

import re

NAMES = {
    "cm": "cm centimeter centimeters centimetre centimetres 厘米",
    "mm": "mm millimeter millimeters millimetre millimetres 毫米",
    "m": "m meter meters metre metres 米",
    "km": "km kilometer kilometers kilometre kilometres 千米 公里",
    "in": "in inch inches 英寸",
    "ft": "ft foot feet 英尺",
    "yd": "yd yard yards 码",
    "mi": "mi mile miles 英里",
    "mph": "mph",
    "s": "s sec second seconds 秒",
    "min": "min minute minutes 分钟",
    "h": "h hr hrs hour hours 小时",
    "day": "day days 天",
    "week": "week weeks 周",
    "month": "month months 个月",
    "year": "year years 年",
    "$": "dollar dollars 美元",
    "yuan": "yuan 元",
    "cent": "cent cents",
    "g": "g gram grams 克",
    "kg": "kg kilogram kilograms 千克 公斤",
    "lb": "lb lbs pound pounds 磅",
    "°": "degree degrees 度",
    "%": "percent percentage pct",
    "unit": "unit units",
}
UNIT = {word: unit for unit, words in NAMES.items() for word in words.split()}
PHRASES = (
    (r"miles per hour|miles/hour|mi/h", "mph"),
    (r"square (\w+)|sq\.? (\w+)|平方(\w+)", "^2"),
    (r"cubic (\w+)|cu\.? (\w+)|立方(\w+)", "^3"),
)
TAIL = re.compile(
    r"(?P<body>.*[\d})\]a-zA-Z])\s*"
    r"(?:\\text\{(?P<text>[^{}]*)\}|(?P<chinese>[\u4e00-\u9fff]+)|(?<![a-zA-Z\\])(?P<word>[A-Za-z][A-Za-z./ ]+))"
    r"\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?"
)
SIGN = re.compile(r"(?P<body>.*[^\s\\])\s*(?P<sign>\\?%|\^\s*\{?\s*\\circ\s*\}?)(?P<scale>\s*(?:\\text\{)?[CF]\}?)?")


def split_unit(text: str) -> tuple[str, str]:
    """(answer without its unit, unit or ""); a word that is no known unit is one only inside \\text."""
    found = SIGN.fullmatch(text)
    if found:
        return found["body"].strip(), "%" if "%" in found["sign"] else "°"
    found = TAIL.fullmatch(text)
    if not found:
        return text, ""
    words = (found["text"] or found["chinese"] or found["word"]).strip().strip(".").lower()
    unit = _known(words)
    countable = found["text"] or found["chinese"]
    if (not unit and not countable) or not words:
        return text, ""
    return found["body"].strip(), (unit or words) + (f"^{found['power']}" if found["power"] else "")


def clash(one: str, other: str) -> bool:
    """Whether the units are known and cannot be the same; a missing one agrees with all, and so does "units"."""
    known = set(NAMES) - {"unit"}
    bases = [unit.split("^")[0] for unit in (one, other)]
    return bool(one and other) and one != other and all(base in known for base in bases)


def _known(words: str) -> str:
    for pattern, unit in PHRASES:
        found = re.fullmatch(pattern, words)
        if found:
            inner = next((group for group in found.groups() if group), None)
            return unit if inner is None else f"{UNIT[inner]}{unit}" if inner in UNIT else ""
    return UNIT.get(words, "")
