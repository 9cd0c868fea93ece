"""`harness run --dry-run`: samples, tokens and time of a run before it starts."""

from __future__ import annotations

import time

from harness.evaluation import Prepared, load_backend
from qwen_model.checkpoint import load_tokenizer
from qwen_model.generation import SLOTS
from qwen_model.prefill import Reader
from qwen_model.rows import Rows
from tasks.api import Chat


def estimate(prepared: Prepared) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table, one row per task.

    Prompts are counted exactly. Generated tokens are the most there can be (every reply as long as allowed), and so is
    the time, from the speed of this model on this machine, measured by one pass and a few decoding steps.
    """
    tokenizer = load_tokenizer(prepared.checkpoint)
    reader, read_rate, write_rate = _measure(prepared)
    rows = []
    for task in prepared.tasks:
        prompts = []
        for sample in prepared.samples[task.name]:
            prompt = task.prompt(sample)
            if isinstance(prompt, Chat):
                prompts.append(tokenizer.encode_chat(prompt.messages, prompt.prefill))
            else:
                prompts.append(tokenizer.encode(prompt))
        asked = sum(map(len, prompts))
        computed = _computed(reader, prompts)
        most = task.decoding.max_tokens * len(prompts) if task.decoding else 0
        minutes = (computed / read_rate + most / write_rate) / 60
        rows.append(
            [
                task.name,
                str(len(prompts)),
                f"{asked:,}",
                f"{computed:,}",
                f"at most {most:,}",
                f"at most {minutes:.1f} min",
            ]
        )
    return ["task", "samples", "prompt tokens", "after sharing", "generated tokens", "time"], rows


def _computed(reader: Reader, prompts: list[list[int]]) -> int:
    """Tokens that go through the model once shared prefixes are computed once."""
    total = 0
    path: list[int] = []
    for index, shared in reader.plan(prompts, [len(prompt) - 1 for prompt in prompts]):
        prefix = prompts[index][:shared]
        common = 0
        while common < min(len(path), shared) and path[common] == prefix[common]:
            common += 1
        total += len(prompts[index]) - common
        path = prefix
    return total


def _measure(prepared: Prepared) -> tuple[Reader, float, float]:
    """A reader; tokens per second in reading (one pass of 512) and in writing (`SLOTS` rows side by side)."""
    model = load_backend(prepared)
    reader = Reader(model, 512)
    text = [index % 100 for index in range(512)]
    for _ in range(2):  # the first pass warms up
        start = time.monotonic()
        reader.read([text], [(0, 0)], [[511]])
    read_rate = 512 / (time.monotonic() - start)
    rows = Rows(model, reader, SLOTS)
    for _ in range(SLOTS):
        rows.enter([text[:300]], [(0, 0)])
    for _ in range(3):
        start = time.monotonic()
        rows.step([0] * SLOTS)
    return reader, read_rate, SLOTS / (time.monotonic() - start)
