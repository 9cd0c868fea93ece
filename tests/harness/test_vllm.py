"""`--backend vllm` against a stand-in with the signatures that vLLM documents, computed by transformers."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import Enum
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from harness import evaluate
from harness.evaluation import Settings, prepare
from harness.records import spec_hash
from qwen_model import ModelError
from tasks.api import TaskError
from tests.harness.served import Served
from tests.harness.test_run import rows

SCRIPTED = str(Path(__file__).parent / "scripted.py")
SUMS, GUESSES, TOOLS, LIKELY = (f"{SCRIPTED}:{name}" for name in ("Sums", "Guesses", "Tools", "Likely"))


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    """vllm.SamplingParams: the fields that are documented, of which an unknown one is an error."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE


@dataclass
class AsyncEngineArgs:
    """vllm.AsyncEngineArgs, as far as it concerns us."""

    model: str
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    disable_log_stats: bool = False


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class ModelConfig:
    max_model_len: int = 2048


@dataclass
class AsyncLLMEngine:
    """vllm.AsyncLLMEngine (AsyncLLM): one request, one asynchronous generator of outputs."""

    args: AsyncEngineArgs
    served: Served
    model_config: ModelConfig = field(default_factory=ModelConfig)
    asked: list[str] = field(default_factory=list)
    made: types.SimpleNamespace | None = None

    @classmethod
    def from_engine_args(cls, engine_args: AsyncEngineArgs, start_engine_loop: bool = True) -> AsyncLLMEngine:
        if engine_args.tensor_parallel_size > 8:
            raise ValueError("World size (16) is larger than the number of available GPUs (8)\nin this node.")
        MADE.append(cls(engine_args, Served(Path(engine_args.model))))
        return MADE[-1]

    def shutdown(self) -> None:
        STOPPED.append(self)

    async def generate(
        self, prompt: dict[str, list[int]], sampling_params: SamplingParams, request_id: str
    ) -> AsyncGenerator[RequestOutput, None]:
        assert request_id not in self.asked, "a request's id has to be its own"
        self.asked.append(request_id)
        ids, params = prompt["prompt_token_ids"], sampling_params
        scored = None
        if params.prompt_logprobs is not None:
            table, scored = self.served.logprobs(ids), [None]
            for place, token in enumerate(ids[1:]):
                order = table[place].argsort(descending=True).tolist()
                ranked = {one: order.index(one) + 1 for one in (token, *order[: params.prompt_logprobs])}
                scored.append({one: Logprob(float(table[place, one]), rank) for one, rank in ranked.items()})
        written = self._write(ids, params)
        assert params.output_kind is RequestOutputKind.FINAL_ONLY
        yield RequestOutput(request_id, ids, scored, [written], True)

    def _write(self, ids: list[int], params: SamplingParams) -> CompletionOutput:
        body = {"max_tokens": params.max_tokens, "temperature": params.temperature, "seed": params.seed}
        written: list[int] = []
        entries: list[dict[int, Logprob]] = []
        finish, reason = "length", None
        while len(written) < (params.max_tokens or 16):
            table = self.served.logprobs(ids + written)[-1]
            token = int(table.argmax()) if not body["temperature"] else self._draw(table, body, len(written))
            written.append(token)
            entries.append({token: Logprob(float(table[token]), int((table > table[token]).sum()) + 1)})
            stops = [text for text in params.stop or [] if text in self.served.tokenizer.decode(written)]
            if token in (params.stop_token_ids or []):
                finish, reason = "stop", token
                break
            if stops:
                finish, reason = "stop", stops[0]
                break
        return CompletionOutput(0, "not looked at", written, None, entries, finish, reason)

    def _draw(self, table, body: dict, place: int) -> int:
        import torch

        generator = torch.Generator().manual_seed(body["seed"] + place)
        return int(torch.multinomial((table / body["temperature"]).softmax(-1), 1, generator=generator))


MADE: list[AsyncLLMEngine] = []
STOPPED: list[AsyncLLMEngine] = []


@pytest.fixture
def vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.__dict__.update(
        SamplingParams=SamplingParams,
        AsyncEngineArgs=AsyncEngineArgs,
        AsyncLLMEngine=AsyncLLMEngine,
        sampling_params=types.SimpleNamespace(RequestOutputKind=RequestOutputKind),
    )
    monkeypatch.setitem(sys.modules, "vllm", module)
    MADE.clear()
    STOPPED.clear()


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("task", [GUESSES, TOOLS, LIKELY])
def test_vllm_gives_what_the_native_backend_gives(tiny, tmp_path, task):
    theirs = evaluate([task], str(tiny), backend="vllm", limit=12, out=tmp_path / "vllm")
    ours = evaluate([task], str(tiny), limit=12, out=tmp_path / "here")
    name = next(iter(ours.results))
    assert theirs.results[name].outcomes == ours.results[name].outcomes
    for mine, other in zip(rows(theirs, name), rows(ours, name), strict=True):
        assert (mine["response"], mine["finish"]) == (other["response"], other["finish"])
        assert mine["token_logprobs"] == pytest.approx(other["token_logprobs"], abs=1e-4)
        for one, two in zip(mine["asked"], other["asked"], strict=True):
            for key in ("scores", "logprob", "greedy"):
                assert one.get(key) == pytest.approx(two.get(key), abs=1e-4)
    assert STOPPED == MADE and len(MADE) == 1
    assert theirs.spec["model"]["backend"] == "vllm"


@pytest.mark.usefixtures("vllm")
def test_parallel_options_reach_vllm(tiny, tmp_path):
    settings = {"dtype": "bfloat16", "tensor_parallel": 4, "data_parallel": 2}
    run = evaluate([GUESSES], str(tiny), backend="vllm", limit=1, out=tmp_path / "run", **settings)
    args = MADE[0].args
    assert (args.dtype, args.tensor_parallel_size, args.data_parallel_size) == ("bfloat16", 4, 2)
    assert run.environment["tensor_parallel"] == 4
    # how it is spread is no part of what was measured
    spread = prepare(Settings(tasks=(GUESSES,), model=str(tiny), backend="vllm", limit=1, dtype="bfloat16"))
    assert spec_hash(spread.spec) == spec_hash(run.spec)


@pytest.mark.usefixtures("vllm")
def test_an_interrupted_run_goes_on(tiny, tmp_path, monkeypatch):
    generate, count = AsyncLLMEngine.generate, itertools.count()

    def breaks(self, prompt, sampling_params, request_id):
        if next(count) == 9:
            raise KeyboardInterrupt
        return generate(self, prompt, sampling_params, request_id)

    monkeypatch.setattr(AsyncLLMEngine, "generate", breaks)
    with pytest.raises(KeyboardInterrupt):
        evaluate([SUMS], str(tiny), backend="vllm", out=tmp_path / "run")
    assert STOPPED == MADE
    again = evaluate([SUMS], str(tiny), backend="vllm", out=tmp_path / "run")
    assert again.results["sums"].n == 40


@pytest.mark.usefixtures("vllm")
def test_what_vllm_says_is_one_line(tiny, tmp_path):
    with pytest.raises(ModelError, match=r"--backend vllm: .*World size \(16\)"):
        evaluate([GUESSES], str(tiny), backend="vllm", tensor_parallel=16, out=tmp_path / "run")


def test_without_vllm_it_is_one_line(tiny, tmp_path):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(TaskError, match=r"--backend vllm: vLLM is not installed here; pip install vllm"):
        evaluate([GUESSES], str(tiny), backend="vllm", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_its_options_are_its_own(tiny):
    with pytest.raises(TaskError, match="--tensor-parallel: is of --backend vllm only"):
        prepare(Settings(tasks=(GUESSES,), model=str(tiny), tensor_parallel=2))
