"""The part of a reply that is the answer: EvalPlus's two steps, on the standard library's parser.

First the longest run of lines that parses; of it, the imports and what the entry point reaches. EvalPlus uses
tree-sitter for the second step; docs/protocols.md lists where the two can differ.
"""

from __future__ import annotations

import ast
import warnings

MOST_CHARACTERS, MOST_LINES = 20_000, 256
"""Read of a reply, more than 768 tokens of code fill: every run of lines may have to be parsed."""


def sanitize(reply: str, entry_point: str) -> str:
    """The program in a reply, or an empty string."""
    code = longest_program(reply)
    tree = parse(code)
    if tree is None:
        return ""
    imports: list[ast.stmt] = []
    definitions: dict[str, ast.stmt] = {}  # of two with one name, the first stays
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            if getattr(statement, "module", None) != "__future__":
                imports.append(statement)
        elif (name := defined_name(statement)) is not None:
            definitions.setdefault(name, statement)
    reached, waiting = {entry_point}, [entry_point]
    while waiting:
        if (definition := definitions.get(waiting.pop())) is not None:
            new = words(definition) - reached
            reached |= new
            waiting += new
    kept = imports + [definition for name, definition in definitions.items() if name in reached]
    return "\n".join(ast.get_source_segment(code, statement) or "" for statement in kept)


def longest_program(reply: str) -> str:
    """The run of two or more lines that parses and has the most lines that are not blank; the first of equals.

    Without one: the first line.
    """
    lines = reply[:MOST_CHARACTERS].split("\n")[:MOST_LINES]
    filled = [0]
    for line in lines:
        filled.append(filled[-1] + bool(line.strip()))
    runs = [
        (filled[start] - filled[end], start, end)
        for start in range(len(lines))
        if not is_indented(lines[start])
        for end in range(start + 2, len(lines) + 1)
        if filled[end] > filled[start]
    ]
    for _, start, end in sorted(runs):
        run = "\n".join(lines[start:end])
        if parse(run) is not None:
            return run
    return lines[0]


def is_indented(line: str) -> bool:
    """Whether no program can begin with this line."""
    return line[:1].isspace() and line.strip() != "" and not line.lstrip().startswith(("#", "\\"))


def parse(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def defined_name(statement: ast.stmt) -> str | None:
    """The name that a top-level statement defines, if it is of a kind that EvalPlus keeps."""
    match statement:
        case ast.ClassDef(name=name, decorator_list=[]):
            return name
        case ast.FunctionDef(name=name, decorator_list=[]) | ast.AsyncFunctionDef(name=name, decorator_list=[]):
            return name if any(isinstance(node, ast.Return) for node in ast.walk(statement)) else None
        case ast.Assign(targets=[ast.Name(id=name), *_]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return None


def words(statement: ast.stmt) -> set[str]:
    """Every identifier in a statement, attributes and parameters included."""
    found: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Constant):
            continue
        for _, value in ast.iter_fields(node):
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str):
                    found.update(word.split("."))
    return found
