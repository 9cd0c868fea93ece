"""`--backend vllm`: vLLM in this process, which batches, shares prefixes and spreads over GPUs by itself.

Tokens go in and tokens come out, so that texts, stop strings and log-probabilities mean what they mean elsewhere.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness.backend import Answer, Encoded
from harness.encoding import Encoding
from harness.response_cache import ResponseCache
from harness.token_backend import TokenBackend
from qwen_model import ModelError
from qwen_model.checkpoint import Checkpoint, load_tokenizer
from qwen_model.scoring import Scored
from qwen_model.tokenizer import cut
from tasks.api import Decoding, Prompt


def import_vllm() -> Any:
    """The library. Raises ModelError where something that it needs is missing."""
    try:
        import vllm
    except ImportError as error:
        raise ModelError(f"--backend vllm: vLLM cannot be imported ({error}); pip install vllm again") from error
    return vllm


class VLLMBackend(TokenBackend):
    """One model on vLLM's asynchronous engine."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: str,
        *,
        tensor_parallel: int,
        data_parallel: int,
        runners: int,
        seed: int,
        unsafe: bool,
        cache: ResponseCache | None = None,
    ) -> None:
        """Load the model. Raises ModelError where vLLM cannot."""
        self._vllm = import_vllm()
        args = self._vllm.AsyncEngineArgs(
            model=str(checkpoint.folder),
            dtype=dtype,
            tensor_parallel_size=tensor_parallel,
            data_parallel_size=data_parallel,
            disable_log_stats=True,
        )
        try:
            self._engine = self._vllm.AsyncLLMEngine.from_engine_args(args)
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(f"--backend vllm: {checkpoint.folder}: {error}") from error
        # what is scored is sent whole, and one token is written behind it
        length = int(self._engine.model_config.max_model_len) - 2
        encoding = Encoding(load_tokenizer(checkpoint), length)
        super().__init__(encoding, runners=runners, seed=seed, unsafe=unsafe, cache=cache)
        self._numbers = itertools.count()

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[asyncio.Future[None]]:
        async with super()._serving() as working:
            try:
                yield working
            finally:
                self._engine.shutdown()

    def encode(self, prompt: Prompt) -> Encoded:
        return self.encoding.prompt(prompt)

    async def generate(self, prompt: Encoded, decoding: Decoding, seed: int) -> Answer:
        tokenizer = self.encoding.tokenizer
        output = await self._asked(
            prompt.ids or (),
            max_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            stop=list(decoding.stop),
            stop_token_ids=list(tokenizer.eos_ids),
            seed=seed,
            logprobs=0,  # the written token's own
        )
        (written,) = output.outputs
        ids, finish = list(written.token_ids), "length"
        logprobs = [float(each[token].logprob) for token, each in zip(ids, written.logprobs, strict=True)]
        if ids and ids[-1] in tokenizer.eos_ids:
            finish, ids = "eos", ids[:-1]
        elif written.finish_reason != "length":
            finish = "stop" if isinstance(written.stop_reason, str) else "eos"
        self.tokens.generated += len(written.token_ids)
        return {"text": cut(tokenizer.decode(ids), decoding.stop)[0], "finish": finish, "logprobs": logprobs}

    async def read(self, ids: Sequence[int]) -> list[Scored]:
        output = await self._asked(ids, max_tokens=1, temperature=0.0, prompt_logprobs=1)
        found = [each[token] for token, each in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]
        return [Scored(float(one.logprob), one.rank == 1) for one in found]

    async def _asked(self, ids: Sequence[int], **settings: Any) -> Any:
        """vLLM's last output of a request."""
        self.tokens.prompt += len(ids)
        only_last = self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        params = self._vllm.SamplingParams(output_kind=only_last, **settings)
        number = str(next(self._numbers))
        prompt = {"prompt_token_ids": list(ids)}
        *_, last = [output async for output in self._engine.generate(prompt, params, number)]
        return last
