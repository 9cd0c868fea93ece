"""The reader of command lines takes what the programs take, and nothing else."""

from __future__ import annotations

import shlex

import pytest

from tests.commands import accept

MMLU = "harness run --task mmlu --model M"


@pytest.mark.parametrize(
    "command",
    [
        f"{MMLU} --limit 40 --filter subject=astronomy --dtype bfloat16 --long-context dynamic_ntk=exact,logn=on",
        "harness report runs/a --table 2 --format latex",
        "harness ablate --task mmlu --model M --rows none,ntk --lengths 64,300",
        "harness claims --only table3",
        "qwen-train sft sft-math --out DIR --set batch=2",
        "torchrun --nproc-per-node 2 -m qwen_train run nano --out DIR",
        "python -m tests.tasks.references python",
        "make reproduce ONLY=table3",
    ],
)
def test_taken(command):
    accept(shlex.split(command))


@pytest.mark.parametrize(
    "command",
    [
        f"{MMLU} --limt 40",
        f"{MMLU} --limit many",
        f"{MMLU} --limit",
        f"{MMLU} --filter subject",
        f"{MMLU} --dtype fp32",
        f"{MMLU} --long-context dynamic_ntk=maybe",
        "harness run --task mmlu",
        "harness run --task mmlu,gsm9k --model M",
        "harness rnu --task mmlu --model M",
        "harness report runs/a --table 18",
        "harness report runs/a --table 2 --format pdf",
        "harness ablate --task mmlu --model M --rows none,ntc",
        "harness ablate --task mmlu --model M --grid logn=maybe",
        "harness ablate --config ablations/table4.yaml",
        "harness claims --only table33",
        "harness lm-eval --taks hellaswag",
        "qwen-train run nanno --out DIR",
        "qwen-train sft sft-math --out DIR --set batc=2",
        "qwen-train data --out DIR --processes 0",
        "torchrun --nproc-per-rank 2 -m qwen_train run nano --out DIR",
        "torchrun --nproc-per-node 2 -m qwen_train run nano --ot DIR",
        "python -m tests.tasks.references pyton",
        "python -m tests.bench.math_pears",
        "python -m tests.bench.math_pairs --rounds 2",
        "make reproduc",
        "make reproduce ONYL=table3",
        "harnes run",
    ],
)
def test_refused(command):
    with pytest.raises((Exception, SystemExit)):
        accept(shlex.split(command))


def test_a_command_in_a_sentence_may_break_off():
    for text in ("harness run --model", "harness run", "python -m tests.bench.real_completions"):
        accept(text.split(), whole=False)
        with pytest.raises(Exception, match=r"model|task|required"):
            accept(text.split())
    with pytest.raises(Exception, match="modle"):
        accept(["harness", "run", "--modle"], whole=False)
