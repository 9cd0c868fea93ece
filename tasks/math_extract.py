"""Where in a reply the final answer to a mathematical question stands."""

from __future__ import annotations

import re

from tasks.math_strings import last_boxed

FINAL = re.compile(r"(?i:final answer)[^\n]{0,40}?\b(?i:is)\b:?|(?i:final answer)\W{0,4}:|最终答案(?:[是为：:])+")
PLAIN = re.compile(r"(?i:\banswer)[^\n.]{0,40}?\b(?i:is)\b:?|(?i:\banswer)\W{0,4}:|答案(?:[是为：:])+")
END = re.compile(r"\s*I hope it is correct|\n\s*\n|(?<=[^\d\s])[.。](?=\s|$|\*)|(?<=\d)\.(?=\s|$|\*)|[。\n]")


def final_answer(reply: str) -> str | None:
    """The answer's LaTeX or text, or None where the reply names none.

    Of a `\\boxed{...}` and a sentence on the final answer the later one counts; other sentences on an answer only
    where there is neither.
    """
    boxed = last_boxed(reply)
    box = max(reply.rfind("\\boxed"), reply.rfind("\\fbox")) if boxed is not None else -1
    sentence = _last(FINAL, reply)
    if sentence is not None and sentence[0] > box:
        return sentence[1]
    if boxed is not None:
        return boxed.strip() or None
    plain = _last(PLAIN, reply)
    return plain[1] if plain else None


def _last(pattern: re.Pattern[str], reply: str) -> tuple[int, str] | None:
    """(where the last such sentence starts, what it says)."""
    for match in reversed(list(pattern.finditer(reply))):
        rest = reply[match.end() :].lstrip(" *:\n")
        said = rest[: next((end.start() for end in END.finditer(rest) if _closed(rest[: end.start()])), len(rest))]
        said = last_boxed(said) or said
        said = re.sub(r"\*\*|(?<!\\)\$|\\[()\[\]]", "", said).strip().rstrip(" \n.。")
        if said:
            return match.start(), said
    return None


def _closed(text: str) -> bool:
    """Whether a text may end here: not inside $...$ or braces."""
    return len(re.findall(r"(?<!\\)\$", text)) % 2 == 0 and text.count("{") <= text.count("}")
