"""From the settings of a run to the backend that answers it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.long_context import laid_over
from harness.ranks import ranks
from harness.response_cache import ResponseCache
from qwen_model.checkpoint import load_tokenizer

if TYPE_CHECKING:
    from harness.backend import Backend
    from harness.engine import Engine
    from harness.evaluation import Prepared
    from qwen_model.prefill import CausalLM


@dataclass(frozen=True)
class Opened:
    """A backend ready to judge, and what environment.json says of it."""

    backend: Backend
    facts: dict[str, Any]


@contextmanager
def open_backend(prepared: Prepared) -> Iterator[Opened]:
    """The model on its backend, for as long as the context lasts. Raises ModelError where it cannot be had."""
    settings = prepared.settings
    model_entry, engine = prepared.spec["model"], prepared.spec["engine"]
    kept = nullcontext() if settings.cache is None else ResponseCache(settings.cache, model_entry, engine)
    common: dict[str, Any] = {
        "runners": ranks().processors,
        "seed": settings.seed,
        "unsafe": settings.unsafe_no_sandbox,
    }
    with kept as cache:
        if settings.backend == "openai":
            from harness.openai_backend import OpenAIBackend

            assert settings.base_url is not None  # `served` saw to it
            server = OpenAIBackend(
                prepared.checkpoint,
                settings.base_url,
                concurrency=settings.concurrency,
                per_minute=settings.requests_per_minute,
                tokenizer=settings.tokenizer is not None,
                needs_logprobs=any(task.needs_logprobs for task in prepared.tasks),
                **common,
            )
            yield Opened(server, {})
        elif settings.backend == "vllm":
            from harness.vllm_backend import VLLMBackend

            parallel: dict[str, Any] = {
                "tensor_parallel": settings.tensor_parallel,
                "data_parallel": settings.data_parallel,
            }
            yield Opened(VLLMBackend(prepared.checkpoint, settings.dtype, cache=cache, **parallel, **common), parallel)
        else:
            from qwen_model import kernels

            model = load_backend(prepared)
            parameters = sum(weight.numel() for weight in model.parameters())
            with laid_over(model, settings.long_context):
                facts = {"decoding": kernels.describe(), "parameters": parameters}
                yield Opened(new_engine(prepared, model, cache), facts)


def set_threads() -> None:
    """Give torch this rank's processors; where the user has set OMP_NUM_THREADS, that many threads are there already.

    A 1 says nothing where torchrun has started several ranks: it is torchrun's own.
    """
    import torch

    said = os.environ.get("OMP_NUM_THREADS")
    if said is None or (said == "1" and ranks().local_size > 1):
        torch.set_num_threads(ranks().processors)


def load_backend(prepared: Prepared) -> CausalLM:
    """The model of this process, its threads set."""
    set_threads()
    settings = prepared.settings
    if not isinstance(settings.model, str):
        return settings.model
    device = f"cuda:{ranks().local_rank}" if settings.device == "cuda" else settings.device
    if settings.backend == "hf":
        from harness.hf import HFModel

        return HFModel(prepared.checkpoint.folder, settings.dtype, device)
    from qwen_model import load_model

    return load_model(prepared.checkpoint, settings.dtype, device)


def new_engine(prepared: Prepared, model: CausalLM, cache: ResponseCache | None = None) -> Engine:
    """The engine of a loaded model."""
    from harness.engine import Engine
    from qwen_model.generation import SLOTS
    from qwen_model.prefill import PASS

    return Engine(
        model,
        load_tokenizer(prepared.checkpoint),
        batch_tokens=PASS[model.device.type],
        slots=SLOTS,
        runners=ranks().processors,
        seed=prepared.settings.seed,
        unsafe=prepared.settings.unsafe_no_sandbox,
        cache=cache,
    )
