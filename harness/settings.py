"""What a user may ask of a run, and which of it makes no sense."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.ranks import ranks
from harness.selection import check_limit
from tasks.api import Options, TaskError

if TYPE_CHECKING:
    from qwen_model.decoder import Decoder
    from qwen_model.long_context import LongContext

BACKENDS = ("native", "hf", "vllm", "openai")
BELONGS = dict.fromkeys(("base_url", "tokenizer", "concurrency", "requests_per_minute"), "openai") | dict.fromkeys(
    ("tensor_parallel", "data_parallel"), "vllm"
)
"""Settings that mean something to one backend only."""
DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """Everything a run is asked for, with what a user may set of its tasks. `filters` maps a sample field to wanted
    values; `limit` None is all samples."""

    tasks: tuple[str, ...]
    model: str | Decoder
    """A catalogue name, GGUF file or folder; or a decoder from `load_model`, which is used as it is."""
    limit: int | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    backend: str = "native"
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 1234
    draws: int = 1
    """Answers to each problem, for pass@k; more than one needs a temperature."""
    temperature: float | None = None
    """For tasks that generate; None: the task's own, which is greedy in the report's protocols."""
    top_p: float | None = None
    data_dir: Path | None = None
    long_context: LongContext | None = None
    """Laid over the model for the run; None leaves the model as it is."""
    unsafe_no_sandbox: bool = False
    cache: Path | None = None
    """Folder of a response cache shared by runs."""
    base_url: str | None = None
    """Of the backend openai's server; the key comes from the environment."""
    tokenizer: str | None = None
    """Folder or catalogue name with the served model's tokenizer."""
    concurrency: int = 16
    """Requests that a server gets at once."""
    requests_per_minute: int | None = None
    tensor_parallel: int = 1
    data_parallel: int = 1


def check(settings: Settings) -> None:
    """Raises TaskError that names the option."""
    for name, value, known in (
        ("backend", settings.backend, BACKENDS),
        ("dtype", settings.dtype, DTYPES),
        ("device", settings.device, DEVICES),
    ):
        if value not in known:
            raise TaskError(f"--{name}: {value!r} is not one of {', '.join(known)}")
    if settings.device == "cuda" and settings.backend in ("native", "hf"):
        import torch

        if not torch.cuda.is_available():
            raise TaskError("--device: cuda is not to be had here; leave the option out to use the processor")
    for name, wanted in BELONGS.items():
        if getattr(settings, name) != getattr(Settings, name, None) and settings.backend != wanted:
            raise TaskError(f"--{name.replace('_', '-')}: is of --backend {wanted} only; leave it out")
    for name in ("concurrency", "requests_per_minute", "tensor_parallel", "data_parallel"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise TaskError(f"--{name.replace('_', '-')}: {value} is not 1 or more")
    if ranks().size > 1 and settings.backend in ("vllm", "openai"):
        raise TaskError(f"--backend {settings.backend}: it spreads the work by itself; start it without torchrun")
    if settings.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise TaskError("--backend vllm: vLLM is not installed here; pip install vllm, or use --backend hf")
    if settings.cache is not None and settings.backend == "openai":
        raise TaskError("--cache: what weights a server holds cannot be known, and models would mix; leave it out")
    check_limit(settings.limit)
    if settings.draws < 1:
        raise TaskError(f"--samples: {settings.draws} is no number of answers; give 1 or more")
    if settings.temperature is not None and not 0 <= settings.temperature < math.inf:
        raise TaskError(f"--temperature: {settings.temperature} is not 0 or more")
    if settings.top_p is not None and not 0 < settings.top_p <= 1:
        raise TaskError(f"--top-p: {settings.top_p} is not above 0 and at most 1")
    if not settings.tasks:
        raise TaskError("--task: no task named; `harness tasks` lists them")
    if settings.long_context is not None and settings.backend != "native":
        raise TaskError(f"--long-context: the {settings.backend} backend has none; use --backend native")
