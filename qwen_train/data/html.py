"""The text of a web page, without menus and boilerplate, by trafilatura."""

from __future__ import annotations

MARKS = ("<!doctype html", "<html", "<?xml")


def is_html(text: str) -> bool:
    """Does a document begin as a web page does?"""
    start = text[:200].lstrip("\ufeff \t\r\n").lower()
    return start.startswith(MARKS[:2]) or (start.startswith(MARKS[2]) and "<html" in text[:2000].lower())


def extract(page: str) -> str:
    """The main text; empty if there is none."""
    import trafilatura

    return trafilatura.extract(page, include_comments=False, include_tables=True, deduplicate=False) or ""
