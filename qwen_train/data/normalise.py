"""A document's text as it will be trained on, and the form in which two documents are compared."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\ufffe\uffff]")
"""Controls but tab and line feed, blanks of no width, byte order marks. Joiners stay: scripts of India need them."""
_LONE = re.compile("[\ud800-\udfff]")
_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
_TRAILING = re.compile(r"[^\S\n]+(?=\n|\Z)")
_EMPTY = re.compile(r"\n{4,}")


def normalise(text: str) -> str:
    """Composed (NFC), line feeds, nothing unseen, no blanks at the end of lines, at most two empty lines in a row.

    Indentation stays: it is part of code. Lone surrogates, bytes that were not UTF-8, become U+FFFD.
    """
    text = _UNSEEN.sub("", _ENDS.sub("\n", _LONE.sub("\ufffd", text)))
    text = unicodedata.normalize("NFC", text)  # after what stood between a letter and its accent is gone
    text = _EMPTY.sub("\n\n\n", _TRAILING.sub("", text))
    return text.strip("\n")


def key(text: str) -> bytes:
    """Sixteen bytes that are equal for texts that differ only in case, width of characters or blanks."""
    wide = text if text.isascii() else unicodedata.normalize("NFKC", text)
    plain = " ".join(wide.casefold().split())
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()
