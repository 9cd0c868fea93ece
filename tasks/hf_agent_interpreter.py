"""What the Hugging Face Agent benchmark runs code with: its tools as stand-ins, and a narrow Python.

This file is read as text and run in the sandbox, never with a model's code in this process; it needs the standard
library alone. Statements, kinds of expressions and callable names are those of transformers 4.32's own interpreter;
within an expression Python's rules hold.
"""

from __future__ import annotations

import ast
import difflib
from typing import Any


def sound(value: str) -> str:
    if "sound" not in value:
        raise ValueError(f"no sound: {value}")
    return value


def image_of(value: str) -> str:
    if "image" not in value:
        raise ValueError(f"no image: {value}")
    return value


def text_classifier(text: str, labels: list[str]) -> str:
    return f"[label of {text} among {labels}]"


def translator(text: str, src_lang: str, tgt_lang: str) -> str:
    return f"[translation of {text} from {src_lang} to {tgt_lang}]"


def text_reader(text: str) -> str:
    return f"[sound of {text}]"


def summarizer(text: str) -> str:
    return f"[summary of {text}]"


def transcriber(audio: str) -> str:
    return f"[transcript of {sound(audio)}]"


def image_generator(prompt: str) -> str:
    return f"[image of {prompt}]"


def image_captioner(image: str) -> str:
    return f"[caption of {image_of(image)}]"


def image_transformer(image: str, prompt: str) -> str:
    return f"[{image_of(image)} changed by {prompt}]"


def text_qa(text: str, question: str) -> str:
    return f"[answer to {question} in {text}]"


def text_downloader(url: str) -> str:
    return f"[content of {url}]"


def image_qa(image: str, question: str) -> str:
    return f"[answer to {question} about {image_of(image)}]"


def video_generator(prompt: str, seconds: int = 2) -> str:
    return f"[video of {prompt}]"


def document_qa(image: str, question: str) -> str:
    return f"[answer to {question} in the document {image}]"


def image_segmenter(image: str, prompt: str) -> str:
    return f"[mask of {prompt} in {image}]"


STAND_INS = (
    *(text_classifier, translator, text_reader, summarizer, transcriber, image_generator, image_captioner),
    *(image_transformer, text_qa, text_downloader, image_qa, video_generator, document_qa, image_segmenter),
)
FUNCTIONS = {function.__name__: function for function in (*STAND_INS, print, range, float, int, bool, str)}
EXPRESSIONS = (
    *(ast.Call, ast.Constant, ast.Dict, ast.FormattedValue, ast.JoinedStr, ast.List, ast.Name, ast.Subscript),
    *(ast.keyword, ast.Load),
)


class Stopped(Exception):
    """Something that the interpreter does not do: what was computed before stays the result."""


class State(dict[str, Any]):
    """Variables; a name that is not there means the one most like it, as in transformers."""

    def __missing__(self, name: str) -> Any:
        if name.endswith("()"):
            raise KeyError(name)  # a function, see `expression`
        near = difflib.get_close_matches(name, list(self))
        if not near:
            raise Stopped(f"no variable {name}")
        return self[near[0]]


def interpret(codes: list[str], inputs: list[dict[str, str]]) -> Any:
    """The result of the last code, after the codes before it, each with its inputs as variables."""
    state = State()
    result = None
    for code, given in zip(codes, inputs, strict=True):
        state.update(given)
        result = evaluate(code, state)
    return result


def evaluate(code: str, state: State) -> Any:
    """The last value of a statement that is not None; None after an error."""
    result = None
    try:
        for node in ast.parse(code).body:
            found = statement(node, state)
            result = result if found is None else found
    except Stopped:
        return result
    except Exception:  # whatever the code did wrong: its result is none
        return None
    return result


def statement(node: ast.stmt, state: State) -> Any:
    if isinstance(node, ast.Expr):
        return expression(node.value, state)
    if isinstance(node, ast.Assign):
        [target] = node.targets
        state[variable(target)] = found = expression(node.value, state)
        return found
    if isinstance(node, ast.If):
        return block(node.body if condition(node.test, state) else node.orelse, state)
    if isinstance(node, ast.For):
        result = None
        for item in expression(node.iter, state):
            state[variable(node.target)] = item
            found = block(node.body, state)
            result = result if found is None else found
        return result
    raise Stopped(type(node).__name__)


def block(nodes: list[ast.stmt], state: State) -> Any:
    result = None
    for node in nodes:
        found = statement(node, state)
        result = result if found is None else found
    return result


def variable(node: ast.expr) -> str:
    if not isinstance(node, ast.Name):
        raise TypeError("only names are assigned to")
    return node.id


def condition(node: ast.expr, state: State) -> bool:
    if not (isinstance(node, ast.Compare) and len(node.ops) == 1):
        raise TypeError("only one comparison is a condition")
    left, right = (expression(side, state) for side in (node.left, node.comparators[0]))
    names = State(left=left, right=right)
    compared = ast.Compare(ast.Name("left", ast.Load()), node.ops, [ast.Name("right", ast.Load())])
    return bool(run(compared, names))


def expression(node: ast.expr, state: State) -> Any:
    for part in ast.walk(node):
        if not isinstance(part, EXPRESSIONS):
            raise Stopped(type(part).__name__)
        if isinstance(part, ast.Call):
            if not (isinstance(part.func, ast.Name) and part.func.id.removesuffix("()") in FUNCTIONS):
                raise Stopped("a call of something else than a tool")
            # no variable of the same name is in the way; a loop comes by again
            part.func.id = part.func.id.removesuffix("()") + "()"
    return run(node, state)


def run(node: ast.expr, state: State) -> Any:
    functions = {f"{name}()": function for name, function in FUNCTIONS.items()}
    code = compile(ast.fix_missing_locations(ast.Expression(node)), "agent", "eval")
    return eval(code, {"__builtins__": {}, **functions}, state)


def equal(result: Any, right: Any) -> bool:
    return result is not None and bool(result == right)


def among(result: Any, right: Any) -> bool:
    return isinstance(result, dict) and right in result.values()
