"""The text of a document; of a web page that without menus and boilerplate, by trafilatura."""

from __future__ import annotations

from qwen_train.data.normalise import normalise
from qwen_train.data.read import Document
from qwen_train.data.rules import CODE

MARKS = ("<!doctype html", "<html", "<?xml")


def is_html(text: str) -> bool:
    """Does a document begin as a web page does?"""
    start = text[:200].lstrip("\ufeff \t\r\n").lower()
    return start.startswith(MARKS[:2]) or (start.startswith(MARKS[2]) and "<html" in text[:2000].lower())


def extract(page: str) -> str:
    """The main text; empty if there is none."""
    import trafilatura

    return trafilatura.extract(page, include_comments=False, include_tables=True, deduplicate=False) or ""


def is_page(document: Document) -> bool:
    """Is it a web page, by its file's name or by how it begins?"""
    return document.html or (document.kind != CODE and is_html(document.text))


def plain_text(document: Document) -> str:
    """What is judged and trained on, in its normal form; empty for a page without text."""
    return normalise(extract(document.text) if is_page(document) else document.text)
