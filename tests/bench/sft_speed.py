"""Tokens a second of supervised fine-tuning with packing against TRL's SFTTrainer; then where a PPO step's time goes.

    python -m tests.bench.sft_speed --bench ../shared/bench [--rounds 3] [--threads 2] [--cases nano,vocabulary,ppo]

Each measurement is a process of its own, sides in turn, on one random Qwen2, one tokenizer, and the same token ids and
targets: Alpaca's conversations, packed into rows of `length` whose conversations are blind to each other (TRL: `bfd`).
Ours is the stage itself (`run_sft`), timed where it writes its log. TRL's is its trainer as its users call it, with
what makes it fastest here: fused AdamW, no gradient checkpointing, one row at a time, since it makes one row out of
several. Both compute in bfloat16 over float32 weights, without dropout. Tokens are all that is read; there is no
padding on either side.

`ppo` runs a few steps with a function as reward, and shows the share of each phase out of the run's log.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from qwen_train.alignment.ppo import PHASES
from qwen_train.parallel import World
from qwen_train.trainer.logs import Log, read_log

CASES: dict[str, dict[str, Any]] = {
    "nano": {"words": 8192, "length": 512, "batch": 32, "steps": 10},
    # the whole vocabulary over a narrow model: where logits are most of the work
    "vocabulary": {"words": 151936, "length": 512, "batch": 16, "steps": 6},
    "ppo": {"words": 8192, "length": 512, "steps": 6},
}
SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
WARM = 2
"""Steps that do not count."""
PPO = {"queries": 16, "max_tokens": 48, "minibatches": 2, "value_steps": 0, "stop_kl": None}


def prepare(bench: Path, case: dict[str, Any], folder: Path) -> None:
    """A tokenizer of 8,192 tokens, a random model of `words`, and as many conversations as the steps take."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.conftest import CHATML

    with (bench / "sft" / "alpaca_en_zh_52k.jsonl").open(encoding="utf-8") as file:
        found = (json.loads(line) for line in file)
        rows = [{"instruction": r["en_instruction"], "input": r["en_input"], "output": r["en_output"]} for r in found]
    rows = [row for row in rows if row["output"].strip() and sum(map(len, row.values())) < 2 * case["length"]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for row in rows[:5000] for text in row.values()), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"pad_token": "<|endoftext|>"}))
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=case["words"], num_key_value_heads=SHAPE["num_attention_heads"], **SHAPE)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    count = case.get("batch", 32) * case["steps"]
    (folder / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:count]), encoding="utf-8")


@dataclass(frozen=True)
class Mark:
    """The end of a step: tokens read so far, and both clocks."""

    tokens: float
    seconds: float
    processor: float


def mark(tokens: float) -> Mark:
    return Mark(tokens, time.perf_counter(), time.process_time())


def ours(folder: Path, case: dict[str, Any], out: Path) -> list[Mark]:
    from qwen_train.alignment.settings import SFT
    from qwen_train.alignment.sft import run_sft

    data = [str(folder / "talks.jsonl")]
    common = {"dtype": "bfloat16", "length": case["length"], "dropout": 0.0, "checkpoint_every": 10**6}
    recipe = SFT(model=str(folder), data=data, batch=case["batch"], steps=case["steps"], **common)
    marks: list[Mark] = []

    def write(self: Log, step: int, kind: str, values: Mapping[str, Any]) -> None:
        marks.append(mark(values["tokens"]))
        whole(self, step, kind, values)

    whole = Log.write
    with patch.object(Log, "write", write):
        run_sft(recipe, out, World(), _quiet)
    return marks


def theirs(folder: Path, case: dict[str, Any], out: Path) -> list[Mark]:
    """The same of TRL; rows a step so many that a step reads about as much."""
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2ForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from qwen_model.chatml import chat_tokenizer
    from qwen_model.checkpoint import load_tokenizer
    from qwen_train.alignment.conversations import read_conversations
    from qwen_train.alignment.packing import encode

    talks, _ = read_conversations(folder / "talks.jsonl")
    fitted = encode(talks, chat_tokenizer(load_tokenizer(folder)), "report", case["length"], "drop").examples
    labels = [
        [token if target else -100 for token, target in zip(one.ids, one.is_target, strict=True)] for one in fitted
    ]
    tokens = sum(len(one.ids) for one in fitted)
    marks: list[Mark] = []

    class Marks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            marks.append(mark(float(state.num_input_tokens_seen)))

    settings = SFTConfig(
        output_dir=str(out),
        max_length=case["length"],
        packing=True,
        packing_strategy="bfd",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=max(1, round(tokens / case["steps"] / case["length"])),
        num_train_epochs=1,
        learning_rate=2e-6,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        include_num_input_tokens_seen="all",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    SFTTrainer(
        model=Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa"),
        args=settings,
        train_dataset=Dataset.from_dict({"input_ids": [one.ids for one in fitted], "labels": labels}),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[Marks()],
    ).train()
    return marks


def ppo(folder: Path, case: dict[str, Any], out: Path) -> dict[str, float]:
    """Responses a second, and seconds of each phase, in the median of the steps that count."""
    from qwen_train.alignment.ppo_run import run_ppo
    from qwen_train.alignment.settings import PPORecipe

    out.mkdir()
    rows = (json.loads(line) for line in (folder / "talks.jsonl").read_text(encoding="utf-8").splitlines())
    queries = [{"prompt": row["instruction"]} for row in rows]
    (out / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries), encoding="utf-8")
    (out / "reward.py").write_text("def short(query, answer):\n    return -len(answer) / 100\n", encoding="utf-8")
    recipe = PPORecipe(
        model=str(folder),
        reward=f"{out / 'reward.py'}:short",
        queries=[str(out / "queries.jsonl")],
        length=case["length"],
        dtype="bfloat16",
        checkpoint_every=10**6,
        ppo=PPO | {"steps": case["steps"]},
    )
    run_ppo(recipe, out, World(), _quiet)
    steps = [row for row in read_log(out) if row["kind"] == "train"][WARM:]
    names = ["responses_per_second", "length", *(f"seconds_{phase}" for phase in PHASES)]
    return {name: statistics.median(row[name] for row in steps) for name in names}


def measure(side: str, name: str, folder: Path, threads: int) -> dict[str, float]:
    """One process's numbers."""
    from qwen_train.trainer.progress import peak_memory

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as place:
        if side == "ppo":
            return ppo(folder, CASES[name], Path(place) / "run")
        marks = {"ours": ours, "theirs": theirs}[side](folder, CASES[name], Path(place) / "run")
    first, last = marks[WARM - 1], marks[-1]
    tokens = last.tokens - first.tokens
    return {
        "speed": tokens / (last.seconds - first.seconds),
        "per_processor_second": tokens / (last.processor - first.processor),
        "step": tokens / (len(marks) - WARM),
        "memory": peak_memory(torch.device("cpu")),
    }


def _quiet(text: str) -> None:
    """The child's standard output is its numbers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench"), help="the folder with sft/ in it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, help="of each measurement, in place of the case's")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "CASE", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.steps:
        for case in CASES.values():
            case["steps"] = asked.steps
    if asked.one:
        side, name, folder = asked.one
        print(json.dumps(measure(side, name, Path(folder), asked.threads)))
        return
    for name in asked.cases.split(","):
        with tempfile.TemporaryDirectory() as place:
            prepare(asked.bench, CASES[name], Path(place))
            sides: tuple[str, ...] = ("ppo",) if name == "ppo" else ("ours", "theirs")
            found = {side: [] for side in sides}
            for _ in range(asked.rounds):
                for side in sides:
                    found[side].append(_one(side, name, Path(place), asked))
        middle = {
            side: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            for side, rounds in found.items()
        }
        print("\n".join(_of_ppo(middle["ppo"]) if name == "ppo" else _of_sft(name, middle)) + "\n", flush=True)


def _one(side: str, name: str, folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.sft_speed", "--threads", str(asked.threads)]
    command += ["--steps", str(asked.steps)] if asked.steps else []
    done = subprocess.run([*command, "--one", side, name, str(folder)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side}, {name}: {done.stderr[-3000:]}")
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def _of_sft(name: str, middle: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| case | side | tokens/s | tokens per processor-second | tokens a step | memory, MB |", "|---" * 6 + "|"]
    for side, m in middle.items():
        numbers = (m[key] for key in ("speed", "per_processor_second", "step", "memory"))
        lines.append(f"| {name} | {side} | " + " | ".join(f"{number:,.0f}" for number in numbers) + " |")
    speed, processor, memory = (
        middle["ours"][key] / middle["theirs"][key] for key in ("speed", "per_processor_second", "memory")
    )
    return [*lines, f"| {name} | ours / theirs | {speed:.2f} | {processor:.2f} | | {memory:.2f} |"]


def _of_ppo(m: dict[str, float]) -> list[str]:
    phases = {phase: m[f"seconds_{phase}"] for phase in PHASES}
    whole = sum(phases.values())
    lines = [f"PPO: {m['responses_per_second']:.2f} responses/s of {m['length']:.0f} tokens", ""]
    lines += ["| phase | seconds a step | share |", "|---|---|---|"]
    return lines + [f"| {phase} | {spent:.2f} | {100 * spent / whole:.0f} % |" for phase, spent in phases.items()]


if __name__ == "__main__":
    main()
