"""Text on pages: what a model wrote is untrusted, and may hold markup, control characters or lines of a megabyte.

Every string on a page goes through `visible`, then through Jinja's escaping or into the page's data, which its script
shows as text only; the page's own policy forbids other scripts and all loading. In Markdown it goes through `cell`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]",
)


def visible(text: str) -> str:
    """The text with everything unprintable or misleading spelled out: controls, direction marks, lone surrogates."""
    return _UNSEEN.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's pictures of the control characters
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"


def new_environment() -> Any:
    """Jinja's, with every string made visible and escaped."""
    import jinja2
    from markupsafe import Markup

    return jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, escaped: bool = False) -> list[str]:
    """Lines of a Markdown table; cells that are `escaped` already are Markdown."""
    cells = [header, ("---",) * len(header), *[row if escaped else tuple(map(cell, row)) for row in rows]]
    return ["| " + " | ".join(row) + " |" for row in cells]


def cell(text: str) -> str:
    """Text that stays inside its cell and is no markup."""
    text = visible(" ".join(text.split()))
    for character in "\\|`*_<>[]":
        text = text.replace(character, "\\" + character)
    return text
