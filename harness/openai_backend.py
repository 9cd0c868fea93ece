"""`--backend openai`: a model behind any OpenAI-compatible server, by its completions and chat completions.

With the model's tokenizer (`--tokenizer`) all requests are tokens, so that the model reads what it would read here, and
log-probabilities can be had where the server gives those of a prompt. Without it texts and conversations are sent as
they are, and the server's own template renders them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.backend import Answer, Encoded
from harness.encoding import Encoding
from harness.openai_client import BROKEN, Client
from harness.records import canonical
from harness.requests import as_text
from harness.token_backend import TokenBackend
from qwen_model import ModelError
from qwen_model.checkpoint import Checkpoint, find_checkpoint, load_tokenizer, read_config
from qwen_model.download import sha256_file
from qwen_model.scoring import Scored
from qwen_model.tokenizer import cut
from tasks.api import Chat, Decoding, Prompt, Sample, Task, TaskError

PROBE = "The capital of France is Paris."
UNKNOWN_LENGTH = 2048
"""Tokens that are read at once where neither server nor config.json says how many."""


def served(model: str, base_url: str | None, tokenizer: str | None) -> Checkpoint:
    """A server's model in a checkpoint's place: its name, and the folder of its tokenizer.

    What weights the server holds cannot be known: the fingerprint is of its address and the name.
    """
    if base_url is None:
        raise TaskError("--backend openai: which server? give --base-url, such as http://localhost:8000/v1")
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TaskError(f"--base-url: {base_url!r} is no address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise TaskError("--base-url: it is kept with the run; give keys by the environment variable OPENAI_API_KEY")
    folder = Path()
    if tokenizer is not None:
        folder = Path(tokenizer) if Path(tokenizer).is_dir() else find_checkpoint(tokenizer).folder
    digest = hashlib.sha256(canonical([base_url, model]).encode()).hexdigest()[:16]
    return Checkpoint(name=model, folder=folder, quantisation=None, made_from=f"served-{digest}")


def tokenizer_digest(folder: Path) -> str:
    """What tells tokenizers apart: the SHA-256 (16 hex digits) of the file that is read."""
    files = [folder / name for name in ("tokenizer.json", "qwen.tiktoken")]
    return next((sha256_file(file)[:16] for file in files if file.is_file()), "none")


def check_tasks(tasks: Sequence[Task], samples: Mapping[str, Sequence[Sample]], *, tokenizer: bool) -> None:
    """Raises TaskError for what cannot be asked without the model's tokenizer."""
    if tokenizer:
        return
    for task in tasks:
        if task.needs_logprobs:
            raise TaskError(
                f"{task.name}: log-probabilities by a server need the model's own tokens; give --tokenizer with its "
                "folder or catalogue name, or take a task that writes, such as gsm8k-chat"
            )
        prompts = (task.prompt(sample) for sample in samples[task.name])
        if any(isinstance(prompt, Chat) and prompt.prefill for prompt in prompts):
            raise _prefilled(task.name)


def _prefilled(who: str) -> TaskError:
    return TaskError(
        f"{who}: the prompt begins the model's answer, which chat completions cannot; give --tokenizer with the "
        "model's folder or catalogue name"
    )


class OpenAIBackend(TokenBackend):
    """One served model."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        base_url: str,
        *,
        concurrency: int,
        per_minute: int | None,
        tokenizer: bool,
        needs_logprobs: bool,
        runners: int,
        seed: int,
        unsafe: bool,
    ) -> None:
        """`needs_logprobs`: whether to find out how the server gives them before any sample is asked."""
        encoding = Encoding(load_tokenizer(checkpoint.folder), _length(checkpoint.folder)) if tokenizer else None
        super().__init__(encoding, runners=runners, seed=seed, unsafe=unsafe)
        self._model, self._base_url, self._needs_logprobs = checkpoint.name, base_url, needs_logprobs
        self._concurrency, self._per_minute = concurrency, per_minute
        self._way: dict[str, Any] = {}
        """What asks this server for the log-probabilities of a prompt."""

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[asyncio.Future[None]]:
        async with Client(self._base_url, concurrency=self._concurrency, per_minute=self._per_minute) as self._client:
            await self._find_model()
            if self._needs_logprobs:
                await self._find_way()
            async with super()._serving() as working:
                yield working

    async def _find_model(self) -> None:
        """Raises ModelError where the server has no such model. Takes over its length."""
        known = await self._client.get("models", lambda said: {each["id"]: each for each in said["data"]})
        if self._model not in known:
            raise ModelError(f"--model: {self._base_url} has no {self._model!r}; it has {', '.join(known) or 'none'}")
        length = known[self._model].get("max_model_len")
        if self._encoding is not None and isinstance(length, int):
            # what is scored is sent whole, and one token is written behind it
            self._encoding.train_length = length - 2

    async def _find_way(self) -> None:
        """How the server gives a prompt's log-probabilities. Raises TaskError where it does not, or reads other text
        from our tokens."""
        ids = self.encoding.tokenizer.encode(PROBE)
        said = []
        for way, read in WAYS:
            try:
                answer = await self._client.post("completions", self._reading(ids, way), lambda answer: answer)
                scored, text = read(answer, ids)
            except (ModelError, *BROKEN) as error:
                said.append(f"{next(iter(way))}: {error or type(error).__name__}")
                continue
            if len(scored) != len(ids) - 1:
                said.append(f"{next(iter(way))}: {len(scored)} numbers for {len(ids)} tokens")
                continue
            if not PROBE.endswith(text.replace("Ġ", " ")):  # some show a space as byte-level tokenizers do
                raise TaskError(
                    f"--tokenizer: the server reads {text!r} from its tokens of {PROBE!r}; give the model's"
                )
            self._way, self._read_answer = dict(way), read
            return
        raise TaskError(
            f"{self._base_url} gives no log-probabilities of a prompt ({'; '.join(said)}); take tasks that write, or a "
            "server that has them, such as vLLM's"
        )

    def _reading(self, ids: Sequence[int], way: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self._model, "prompt": list(ids), "max_tokens": 1, "temperature": 0, **way}

    async def read(self, ids: Sequence[int]) -> list[Scored]:
        self.tokens.prompt += len(ids)
        body = self._reading(ids, self._way)
        scored, _ = await self._client.post("completions", body, lambda answer: self._read_answer(answer, ids))
        if len(scored) != len(ids) - 1:
            raise ModelError(
                f"{self._base_url}: {len(scored)} log-probabilities for {len(ids)} tokens; mend the server"
            )
        return scored

    def encode(self, prompt: Prompt) -> Encoded:
        if self._encoding is None:
            return Encoded(prompt, as_text(prompt), None)
        return self._encoding.prompt(prompt)

    async def generate(self, prompt: Encoded, decoding: Decoding, seed: int) -> Answer:
        asked = prompt.prompt
        body = {
            "model": self._model,
            "max_tokens": decoding.max_tokens,
            "temperature": decoding.temperature,
            **({"top_p": decoding.top_p, "seed": seed} if decoding.temperature else {}),
            **({"stop": list(decoding.stop)} if decoding.stop else {}),
        }
        if isinstance(asked, Chat) and prompt.ids is None:
            if asked.prefill:
                raise _prefilled("a prompt")
            messages = [{"role": role, "content": text} for role, text in asked.messages]
            said = await self._client.post("chat/completions", {**body, "messages": messages}, _read_chat)
        else:
            sent = asked if prompt.ids is None else list(prompt.ids)
            said = await self._client.post("completions", {**body, "prompt": sent}, _read_completion)
        text, finish, usage = said
        self.tokens.prompt += int(usage.get("prompt_tokens") or 0)
        self.tokens.generated += int(usage.get("completion_tokens") or 0)
        text, stopped = cut(text, decoding.stop)  # some servers leave the stop string in
        return {"text": text, "finish": "stop" if stopped else finish, "logprobs": ()}


def _length(folder: Path) -> int:
    said = read_config(folder).get("max_position_embeddings") if (folder / "config.json").is_file() else None
    return said if isinstance(said, int) else UNKNOWN_LENGTH


def _finish(choice: Mapping[str, Any]) -> str:
    """`stop` where the server says that a stop string ended the text, as vLLM's does; others tell it not from `eos`."""
    if choice["finish_reason"] == "length":
        return "length"
    return "stop" if isinstance(choice.get("stop_reason"), str) else "eos"


def _read_chat(said: Any) -> tuple[str, str, Mapping[str, Any]]:
    choice = said["choices"][0]
    return str(choice["message"]["content"] or ""), _finish(choice), said.get("usage") or {}


def _read_completion(said: Any) -> tuple[str, str, Mapping[str, Any]]:
    choice = said["choices"][0]
    return str(choice["text"]), _finish(choice), said.get("usage") or {}


def _read_echo(answer: Any, ids: Sequence[int]) -> tuple[list[Scored], str]:
    """Of the echoed prompt's tokens, all but the first, and their text."""
    choice = answer["choices"][0]
    found = choice["logprobs"]
    pairs = list(zip(found["token_logprobs"], found["top_logprobs"], strict=True))[1 : len(ids)]
    return [Scored(float(own), own >= max(top.values())) for own, top in pairs], "".join(found["tokens"][1 : len(ids)])


def _read_prompt_logprobs(answer: Any, ids: Sequence[int]) -> tuple[list[Scored], str]:
    """The same of vLLM's own field, whose entries are by token."""
    entries = answer["choices"][0]["prompt_logprobs"]
    found = [entry[str(token)] for token, entry in zip(ids[1:], entries[1:], strict=True)]
    text = "".join(one["decoded_token"] for one in found)
    return [Scored(float(one["logprob"]), one["rank"] == 1) for one in found], text


WAYS: Sequence[tuple[Mapping[str, Any], Callable[[Any, Sequence[int]], tuple[list[Scored], str]]]] = (
    ({"echo": True, "logprobs": 1}, _read_echo),
    ({"prompt_logprobs": 1}, _read_prompt_logprobs),
)
