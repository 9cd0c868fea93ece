"""The language of a document, by py3langid: 139 languages, its model inside the package."""

from __future__ import annotations

from functools import cache
from typing import Any

READ = 1500
"""Characters that are looked at, from the middle: pages begin with menus."""
LEAST = 0.5
"""Probability below which the language is not determined."""


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=LEAST)


def language(text: str) -> str:
    """An ISO 639 code, `zxx` for what is no language, or `und`."""
    first = max(0, (len(text) - READ) // 2)
    return str(_identifier().classify(text[first : first + READ])[0])
