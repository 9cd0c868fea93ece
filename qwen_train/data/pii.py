"""Masks what may name a person: addresses, numbers and keys, each by a pattern and, where it has one, its checksum."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _luhn(number: str) -> bool:
    digits = [int(digit) for digit in number if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _resident(number: str) -> bool:
    """The check character of a Chinese identity number (GB 11643, ISO 7064 mod 11-2)."""
    total = sum(int(digit) * (2 ** (17 - place) % 11) for place, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def _dialled(number: str) -> bool:
    return 8 <= sum(character.isdigit() for character in number) <= 15


def _always(_: str) -> bool:
    return True


_PATTERNS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "key": (
        r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[A-Za-z0-9+/=\s]{1,10000}-----END (?:[A-Z]+ )*PRIVATE KEY-----"
        r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bsk-[A-Za-z0-9_-]{32,100}",
        _always,
    ),
    "email": (r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w@-])", _always),
    "id": (
        r"(?<!\d)[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\dA-Za-z])",
        _resident,
    ),
    "card": (r"(?<![\d.])\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}(?![\d.])", _luhn),
    "ip": (r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])", _public),
    "phone": (
        r"(?<![\w.+])(?:\+\d{1,3}[ -]?(?:\(\d{1,4}\)[ -]?)?\d[\d -]{6,14}\d"
        r"|\(\d{3}\) ?\d{3}-\d{4}|1[3-9]\d{9})(?![\w.])",
        _dialled,
    ),
}
KINDS = tuple(_PATTERNS)


def mask(text: str, kinds: Sequence[str]) -> tuple[str, Counter[str]]:
    """The text with `<email>` and the like in the place of what was found, and how many of each kind."""
    found: Counter[str] = Counter()
    for kind in kinds:
        pattern, valid = _PATTERNS[kind]

        def replace(match: re.Match[str], kind: str = kind, valid: Callable[[str], bool] = valid) -> str:
            if not valid(match[0]):
                return match[0]
            found[kind] += 1
            return f"<{kind}>"

        text = re.sub(pattern, replace, text)
    return text, found
