"""Code and math specialists (report, sections 4 and 5) at nano size, by the package's recipes, on held-out data.

    qwen-train run nano --out train/nano
    python -m tests.bench.specialists --base train/nano/training/model --bench ../shared/bench --out train/specialists

base -> code-nano (continued pretraining on code of the standard library) -> sft-code, and base -> sft-math. Rates and
batches of the chat recipes are for models a thousand times as large, so both get those of `align-nano`. The commands
that are run are shown; the same call goes on after any stop.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import yaml

from qwen_model import load_model
from qwen_model.chatml import chat_tokenizer
from qwen_model.checkpoint import load_tokenizer
from qwen_train.alignment.conversations import read_conversations
from qwen_train.alignment.packing import encode, pack
from qwen_train.alignment.sft import loss_of
from qwen_train.recipe_file import read_recipe_table

PACKAGES = ("asyncio", "email", "unittest", "xml", "ctypes", "multiprocessing", "importlib")
HELD_OUT = 150
LENGTH = 512


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Alpaca's fields, of Alpaca's or GSM8K's."""
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            yield (
                row if "instruction" in row else {"instruction": row["question"], "input": "", "output": row["answer"]}
            )


def prepare(bench: Path, data: Path) -> None:
    """NAME.jsonl and NAME-held-out.jsonl of both."""
    data.mkdir(parents=True, exist_ok=True)
    code = [row for row in rows(bench / "sft" / "code_alpaca_2k.jsonl") if row["output"].strip()]
    sets = {
        "code": code[HELD_OUT:],
        "code-held-out": code[:HELD_OUT],
        "math": list(rows(bench / "gsm8k" / "train.jsonl")),
        "math-held-out": list(rows(bench / "gsm8k" / "test.jsonl"))[:HELD_OUT],
    }
    for name, found in sets.items():
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def train(*arguments: object) -> None:
    command = ["qwen-train", *map(str, arguments)]
    print("$", shlex.join(command), file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "qwen_train", *command[1:]])
    if done.returncode:
        sys.exit(done.returncode)


def loss(model: Path, data: Path) -> float:
    """Nats a token of the answers."""
    talks, _ = read_conversations(data)
    fitted = encode(talks, chat_tokenizer(load_tokenizer(model)), "report", LENGTH, "drop").examples
    return loss_of(load_model(str(model)), pack(fitted, LENGTH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, help="of code-nano, in place of its own")
    parser.add_argument("--steps", type=int, default=100, help="of each fine-tuning")
    args = parser.parse_args()
    data, out = args.out / "data", args.out
    prepare(args.bench, data)
    recipe: object = "code-nano"
    if args.tokens:
        table = read_recipe_table("code-nano")
        table["training"]["tokens"] = args.tokens
        recipe = out / "code-nano.yaml"
        Path(str(recipe)).write_text(yaml.safe_dump(table), encoding="utf-8")
    corpus = [part for name in PACKAGES for part in ("--corpus", Path(sysconfig.get_path("stdlib")) / name)]
    train("run", recipe, "--start", args.base, *corpus, "--out", out / "code-base")
    code_base = out / "code-base" / "training" / "model"
    for name, start in (("code", code_base), ("math", args.base)):
        changes = (
            *(f"model={start}", f"data=[{data / name}.jsonl]", f"length={LENGTH}", "batch=16", f"steps={args.steps}"),
            *("optimiser.learning_rate=1e-3", "dropout=0"),
            # sft-math's warm-up is a number of steps, sft-code's a share
            *(("optimiser.warmup_steps=10",) if name == "math" else ()),
        )
        options = [part for change in changes for part in ("--set", change)]
        train("sft", f"sft-{name}", "--out", out / f"{name}-chat", *options)
    print("| loss on held-out answers, nats a token | code | math |\n|---|---|---|")
    models = {"base": args.base, "code base": code_base}
    models |= {f"{name} chat": out / f"{name}-chat" / "model" for name in ("code", "math")}
    for name, model in models.items():
        cells = (f"{loss(model, data / f'{kind}-held-out.jsonl'):.3f}" for kind in ("code", "math"))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
