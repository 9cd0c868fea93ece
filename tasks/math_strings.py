"""Published ways to make strings of mathematical answers comparable, written anew from what they do.

`minerva` is appendix D of Lewkowycz et al. (2022), `hendrycks` the string equality of Hendrycks et al. (2021), `report`
OpenCompass's rule of September 2023, which the Qwen report's MATH number most likely used. All three keep their quirks.
"""

from __future__ import annotations

import re

REWRITES = (
    *(("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text")),
    *((",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}")),
)
REMOVED = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue"),
    *("points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges"),
    *("students", "childrentickets", "multiples", "\\text{s}", "\\text{.}"),
    *("\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}", "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}"),
    *("\\;", ",\\!", "{,}", '"', "\\dots"),
)


class Unreadable(Exception):
    """The published code fails on this text, and falls back to comparing the texts as they are."""


def last_boxed(text: str) -> str | None:
    """What is in the last `\\boxed{...}` or `\\fbox{...}`, braces counted; None where there is none or it is open."""
    start = text.rfind("\\boxed")
    start = text.rfind("\\fbox") if start < 0 else start
    opening = text.find("{", start)
    if start < 0 or opening < 0 or text[start:opening].rstrip() not in ("\\boxed", "\\fbox"):
        return None
    depth = 0
    for place in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[opening + 1 : place]
    return None


def minerva_answer(reply: str) -> str | None:
    """The answer in the sentence that the Minerva examples end with, normalised; None where it is missing."""
    found = re.search(r"Final Answer: The final answer is(.*?). I hope it is correct.", reply + "I hope it is correct.")
    return None if found is None else minerva(found[1].strip())


def minerva(answer: str) -> str:
    """The normalisation of appendix D."""
    answer = _reduced(answer.split("=")[-1], REWRITES, REMOVED)
    answer = re.sub(r".*?\$(.*?)\$.*", r"$\1$", answer)
    return _spelled_out(_unwrapped(answer))


def report_answer(reply: str) -> str:
    """OpenCompass's: of the pieces between dots the first that names a final answer, else the first, normalised.

    An answer with a decimal point is cut at it, and "\\left" loses its "\\le".
    """
    pieces = reply.split(".")
    piece = next((piece for piece in pieces if "final answer" in piece.lower()), pieces[0])
    answer = _unwrapped(_reduced(piece, (*REWRITES, ("\\le", "<")), (*REMOVED, "\n", "\r", "\f")))
    for pattern in (r"finalansweris(.*)", r"oxed\{(.*?)\}", r"\$(.*?)\$"):
        answer = ([answer, *re.findall(pattern, answer)])[-1]
    answer = answer.strip()
    if "rac" in answer and "\\frac" not in answer:
        answer = answer.replace("rac", "\\frac")
    return _spelled_out(answer)


def _reduced(text: str, rewrites: tuple[tuple[str, str], ...], removed: tuple[str, ...]) -> str:
    for before, after in (*rewrites, *((expression, "") for expression in removed)):
        text = text.replace(before, after)
    return text


def _unwrapped(text: str) -> str:
    for command in ("text", "textbf", "overline"):
        text = re.sub(rf"\\{command}\{{(.*?)\}}", r"\1", text)
    return re.sub(r"\\boxed\{(.*)\}", r"\1", text)


def _spelled_out(text: str) -> str:
    """\\frac12 gets its braces, \\sqrt3 too; dollar signs and thousands separators go."""
    text = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", text)
    text = re.sub(r"sqrt([^{])", r"sqrt{\1}", text).replace("$", "")
    return text.replace(",", "") if text.replace(",", "").isdigit() else text


def hendrycks_equal(answer: str, gold: str) -> bool:
    """Whether the two are one string after `hendrycks`."""
    try:
        return hendrycks(answer) == hendrycks(gold)
    except Unreadable:
        return answer == gold


def hendrycks(text: str) -> str:
    """The string that stands for an answer. Raises Unreadable."""
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
    if text.count("\\text{ ") > 1:
        raise Unreadable
    text = text.split("\\text{ ")[0]  # a unit
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    sides = text.split("=")
    text = sides[1] if len(sides) == 2 and len(sides[0]) <= 2 else text
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    return _slash("\\frac{1}{2}" if text == "0.5" else text)


def _braced_roots(text: str) -> str:
    head, *tails = text.split("\\sqrt")
    if not all(tails):
        raise Unreadable
    return head + "".join("\\sqrt" + (tail if tail[0] == "{" else f"{{{tail[0]}}}{tail[1:]}") for tail in tails)


def _braced_fractions(text: str) -> str:
    head, *tails = text.split("\\frac")
    for tail in tails:
        if not tail:
            raise Unreadable
        if tail[0] == "{":
            head += "\\frac" + tail
        elif len(tail) < 2:
            return text
        else:
            head += f"\\frac{{{tail[0]}}}" + (tail[1:] if tail[1] == "{" else f"{{{tail[1]}}}{tail[2:]}")
    return head


def _slash(text: str) -> str:
    """a/b of whole numbers as a fraction."""
    sides = text.split("/")
    if len(sides) != 2:
        return text
    try:
        a, b = int(sides[0]), int(sides[1])
    except ValueError:
        raise Unreadable from None
    return f"\\frac{{{a}}}{{{b}}}" if text == f"{a}/{b}" else text
