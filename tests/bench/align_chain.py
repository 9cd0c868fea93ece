"""The chain of `qwen-train align` on real data, measured by the harness at every stage.

    qwen-train run nano --corpus ../shared/bench/pretrain --out train/nano
    python -m tests.bench.align_chain --base train/nano/training/model --bench ../shared/bench --out train/chain

Alpaca-like pairs teach to answer. hh-rlhf's test split is divided by us, by a digest of each pair: four tenths train
the reward model, four tenths another reward model, the gold, which PPO never sees, and two tenths are held out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from harness import evaluate
from harness.data import Data
from harness.describe import dump
from harness.statistics import wilson
from qwen_model import load_model
from qwen_model.chatml import chat_tokenizer, encode_prompt
from qwen_model.checkpoint import load_tokenizer
from qwen_train.alignment.chain import run_chain
from qwen_train.alignment.conversations import read_conversations
from qwen_train.alignment.packing import encode, pack
from qwen_train.alignment.recipes import checked
from qwen_train.alignment.reward import run_reward
from qwen_train.alignment.rollouts import sample
from qwen_train.alignment.scorers import scorer
from qwen_train.alignment.settings import Reward
from qwen_train.alignment.sft import loss_of
from qwen_train.parallel import World
from qwen_train.recipe_file import read_recipe_table
from tasks.preference import SETS, Preference


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read(path: Path, count: int | None = None) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        for place, line in enumerate(file):
            if count is not None and place >= count:
                return
            yield json.loads(line)


def part(text: str) -> str:
    tenth = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
    return "train" if tenth < 4 else "gold" if tenth < 8 else "held-out"


def prepare(bench: Path, data: Path, letters: int, talks: int) -> None:
    """All files of the recipe. `letters` bounds a conversation: the nano base reads 256 tokens."""
    data.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    rows = [
        {"instruction": row["en_instruction"], "input": row["en_input"], "output": row["en_output"]}
        for row in read(bench / "sft" / "alpaca_en_zh_52k.jsonl", 12000)
    ]
    rows = [row for row in rows if len(row["output"]) > 0 and sum(map(len, row.values())) < letters]
    write(data / "sft.jsonl", rows[:talks])
    write(data / "sft-validation.jsonl", rows[talks : talks + 200])
    # noisy comparisons for preference-model pretraining: an answer against the answer to another question
    pmp = []
    for row, other in zip(rows[talks + 200 :], draw.sample(rows, len(rows)), strict=False):
        asked = "\n".join(text for text in (row["instruction"], row["input"]) if text)
        if row["output"] != other["output"]:
            pmp.append({"prompt": asked, "chosen": row["output"], "rejected": other["output"]})
    write(data / "pmp.jsonl", pmp[:1600])
    for name in ("train", "gold", "held-out"):
        for hh in SETS:
            folder = data / name / "hh_rlhf"
            folder.mkdir(parents=True, exist_ok=True)
            kept = [
                row for row in read(bench / "hh_rlhf" / f"{hh}_test.jsonl") if len(max(row.values(), key=len)) < letters
            ]
            write(folder / f"{hh}_test.jsonl", [row for row in kept if part(row["chosen"]) == name])
        write(data / f"pairs-{name}.jsonl", list(dump(Preference(), Data(data / name), {}, None)))
    write(data / "pairs.jsonl", list(read(data / "pairs-train.jsonl")))
    write(data / "pairs-validation.jsonl", list(read(data / "pairs-held-out.jsonl")))
    for name, target in (("train", "queries"), ("held-out", "queries-held-out")):
        found = {
            json.dumps(row["fields"]["messages"]): {"fields": {"messages": row["fields"]["messages"]}}
            for row in read(data / f"pairs-{name}.jsonl")
            if row["group"].startswith("helpful")
        }
        write(data / f"{target}.jsonl", list(found.values())[: 200 if target != "queries" else None])
    write(data / "pretraining.jsonl", [{"text": row["output"]} for row in rows[-1500:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--letters", type=int, default=500)
    parser.add_argument("--talks", type=int, default=4800)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    data, world = args.out / "data", World()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if not (data / "pretraining.jsonl").is_file():
        prepare(args.bench, data, args.letters, args.talks)
    recipe = Path("align-nano")
    gold_table = read_recipe_table(recipe)["reward"] | {"model": args.base, "data": [str(data / "pairs-gold.jsonl")]}
    gold_table["validation"] = [str(data / "pairs-held-out.jsonl")]
    say("== gold")
    gold = run_reward(checked(gold_table | {"seed": 77}, Reward, [], "gold"), args.out / "gold", world, say)
    models = run_chain(recipe, args.base, data, args.out, [f"ppo.gold={gold}", *args.set], world, say)
    print(report(args.base, models, gold, data, args.out))


def report(base: str, models: dict[str, Path], gold: Path, data: Path, out: Path) -> str:
    """Tables in markdown: loss on held-out answers, preference by the harness, PPO against SFT by the gold."""
    lines = ["| | loss on held-out answers, nats a token |", "|---|---|"]
    talks, _ = read_conversations(data / "sft-validation.jsonl")
    fitted = encode(talks, chat_tokenizer(load_tokenizer(models["sft"])), "report", 256, "drop").examples
    for name, folder in (("base", base), ("SFT", models["sft"]), ("PPO", models["ppo"])):
        lines.append(f"| {name} | {loss_of(load_model(str(folder)), pack(fitted, 256)):.3f} |")
    lines += ["", f"| preference, held-out pairs | all | {' | '.join(SETS)} |", "|---" * (2 + len(SETS)) + "|"]
    named = {"base, likelihood": Path(base), "SFT, likelihood": models["sft"], "PMP": models["pmp"]}
    named |= {"RM": models["reward"], "gold": gold}
    for name, folder in named.items():
        run = evaluate(
            ["preference"], str(folder), data_dir=data / "held-out", out=out / "harness" / name.replace(", ", "-")
        )
        frame = run.samples("preference")
        cells = []
        for rows in (frame, *(frame[frame["id"].str.contains(f"/{hh}/")] for hh in SETS)):
            share = wilson(int(rows["correct"].sum()), len(rows))
            cells.append(f"{100 * share.value:.1f} ({100 * share.low:.0f}-{100 * share.high:.0f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", duel(models, gold, data)])


def duel(models: dict[str, Path], gold: Path, data: Path) -> str:
    """PPO against SFT on held-out queries: the same seeds, judged by the reward model and by the gold."""
    tokenizer = load_tokenizer(models["sft"])
    chat = chat_tokenizer(tokenizer)
    asked = [row["fields"]["messages"] for row in read(data / "queries-held-out.jsonl")]
    queries = [encode_prompt(chat, [(role, text) for role, text in messages]) for messages in asked]
    queries = [ids for ids in queries if len(ids) <= 250]
    lines = [
        "| PPO against SFT, held-out queries | SFT | PPO | wins, ties, losses | won of decided |",
        "|---|---|---|---|---|",
    ]
    said = {
        name: sample(load_model(str(models[name])), tokenizer, queries, max_tokens=48, top_p=0.9, seed=5)
        for name in ("sft", "ppo")
    }
    for label, judge in (("reward model", models["reward"]), ("gold", gold)):
        score = scorer(str(judge), str(models["sft"]), length=320, dtype="float32", world=World())
        before, after = (torch.tensor(list(score(said[name]))) for name in ("sft", "ppo"))
        won, lost = int((after > before).sum()), int((after < before).sum())
        share = wilson(won, won + lost)
        error = [float(scores.std()) / math.sqrt(len(scores)) for scores in (before, after)]
        lines.append(
            f"| {label}, {len(queries)} queries | {before.mean():.3f} ± {1.96 * error[0]:.3f} |"
            f" {after.mean():.3f} ± {1.96 * error[1]:.3f} | {won}, {len(queries) - won - lost}, {lost} |"
            f" {100 * share.value:.1f} % ({100 * share.low:.0f}-{100 * share.high:.0f}) |"
        )
    for name, texts in said.items():
        lengths = [len(text.response) for text in texts]
        lines += ["", f"{name}: mean length {sum(lengths) / len(lengths):.1f} tokens; for example"]
        lines += [f"- {text.answer[:120]!r}" for text in texts[:3]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
