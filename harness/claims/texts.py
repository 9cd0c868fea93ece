"""`python -m harness.claims.texts KIND --out FOLDER`: the texts that the nano family is tested and trained on.

    held-out    60 long source files of installed packages, none of which the default corpus of `qwen-train` has
    code        other source files of the same packages, to go on training on
    languages   zh.jsonl and en.jsonl for `harness tokenizer-report`: the questions of the task win-rate
    sft         conversations of `sft/`, and apart from them questions to ask (with --data)
    math        problems and solutions of `gsm8k/`: training ones as conversations, test ones as texts (with --data)
    pairs       preferences of `hh_rlhf/`: a large mixed part, a small one, and another to judge by (with --data)

The same installation and the same data give the same texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.api import TaskError

HELD_OUT, LEAST, MOST = 60, 80_000, 400_000
"""Files, and their bytes: the least is above 16,384 tokens of a vocabulary of 4,096 and of larger ones."""
CODE = 80
BY_TEN = 10
"""One row of so many is kept apart."""
LETTERS = 700
"""Longest conversation: the nano family reads 256 tokens."""


def sources() -> list[Path]:
    """Long Python files of installed packages, in an order drawn by their names."""
    packages = Path(sysconfig.get_path("purelib"))
    found = [path for path in packages.rglob("*.py") if LEAST <= path.stat().st_size <= MOST]
    return sorted(found, key=lambda path: _drawn(str(path.relative_to(packages))))


def held_out(out: Path, data: Path | None) -> str:
    """Texts as files, one per source."""
    found = sources()[:HELD_OUT]
    if len(found) < HELD_OUT:
        raise TaskError(
            f"only {len(found)} of {HELD_OUT} long source files are installed; name documents in the family"
        )
    for number, path in enumerate(found):
        _write(out / f"{number:02}-{path.parent.name}-{path.stem}.txt", path.read_text(encoding="utf-8"))
    return f"{len(found)} files"


def code(out: Path, data: Path | None) -> str:
    """Rows as `qwen-train tokens` reads them."""
    rows = [
        {"id": path.name, "source": "code", "text": path.read_text(encoding="utf-8")}
        for path in sources()[HELD_OUT : HELD_OUT + CODE]
    ]
    _rows(out / "code.jsonl", rows)
    return f"{len(rows)} files"


def languages(out: Path, data: Path | None) -> str:
    """A text per question."""
    from harness.data import Data
    from harness.registry import task_class

    found: dict[str, list[str]] = {"en": [], "zh": []}
    for sample in task_class("win-rate")().samples(Data(None)):
        prompt = str(sample.fields["prompt"])
        found["en" if prompt.isascii() else "zh"].append(prompt)
    for language, prompts in found.items():
        _rows(out / f"{language}.jsonl", [{"text": prompt} for prompt in prompts])
    return ", ".join(f"{len(prompts)} {language}" for language, prompts in found.items())


def sft(out: Path, data: Path | None) -> str:
    """train.jsonl in Alpaca's format, and questions.jsonl as the task win-rate reads them."""
    rows = [
        {"instruction": row["en_instruction"], "input": row["en_input"], "output": row["en_output"]}
        for row in _read(_folder(data) / "sft" / "alpaca_en_zh_52k.jsonl")
        if row["en_output"].strip()
        and sum(len(row[f"en_{part}"]) for part in ("instruction", "input", "output")) < LETTERS
    ]
    apart = [row for row in rows if _apart(row["instruction"]) and not row["input"]]
    kept = [row for row in rows if not _apart(row["instruction"])]
    _rows(out / "train.jsonl", kept)
    asked = [{"messages": [{"role": "user", "content": row["instruction"]}]} for row in apart]
    _rows(out / "queries.jsonl", asked[400:])
    prompts = [
        {"id": f"alpaca-{number}", "category": _kind(row["instruction"]), "prompt": row["instruction"]}
        for number, row in enumerate(apart[:400])
    ]
    _rows(out / "win_rate" / "prompts.jsonl", prompts)
    return f"{len(kept)} conversations, {len(prompts)} questions apart, {len(asked) - 400} more to train on"


def math(out: Path, data: Path | None) -> str:
    """train.jsonl in Alpaca's format, and solved test problems, 20 to a text."""
    folder = _folder(data) / "gsm8k"
    rows = [
        {"instruction": row["question"], "input": "", "output": row["answer"]} for row in _read(folder / "train.jsonl")
    ]
    _rows(out / "train.jsonl", rows)
    solved = [f"{row['question']}\n{row['answer']}" for row in _read(folder / "test.jsonl")]
    texts = ["\n\n".join(solved[first : first + 20]) for first in range(0, len(solved) - 19, 20)]
    for number, text in enumerate(texts):
        _write(out / "test" / f"{number:03}.txt", text)
    return f"{len(rows)} conversations, {len(texts)} texts"


def pairs(out: Path, data: Path | None) -> str:
    """pmp.jsonl, reward.jsonl and judge.jsonl for training; a third of every set lies in hh_rlhf/, to be tested on.

    Only short conversations. PMP takes harmless base and helpful online, the reward model helpful rejection sampled,
    a judge helpful base.
    """
    from tasks.preference import part

    folder = _folder(data) / "hh_rlhf"
    parts = {
        "pmp": ("harmless-base", "helpful-online"),
        "reward": ("helpful-rejection-sampled",),
        "judge": ("helpful-base",),
    }
    told = []
    for name, sets in parts.items():
        learnt: list[dict[str, Any]] = []
        for one in sets:
            rows = [row for row in _read(folder / f"{one}_test.jsonl") if max(map(len, row.values())) < LETTERS]
            _rows(out / "hh_rlhf" / f"{one}_test.jsonl", [row for row in rows if _apart(row["chosen"], 3)])
            learnt += [row for row in rows if not _apart(row["chosen"], 3)]
        made = [_pair(split) for row in learnt if (split := part(row["chosen"], row["rejected"]))]
        _rows(out / f"{name}.jsonl", made)
        told.append(f"{len(made)} {name}")
    return ", ".join(told)


def _pair(split: tuple[Sequence[tuple[str, str]], str, str]) -> dict[str, Any]:
    messages, chosen, rejected = split
    said = [{"role": role, "content": content} for role, content in messages]
    return {"messages": said, "chosen": chosen, "rejected": rejected}


def _kind(instruction: str) -> str:
    """A rough kind of request, by its words."""
    words = instruction.lower()
    for kind, signs in (
        ("creative writing", ("write", "story", "poem", "compose", "create", "imagine")),
        ("language", ("rewrite", "translate", "summarize", "edit", "grammar", "sentence", "classify")),
        ("knowledge", ("what", "who", "when", "where", "why", "how", "explain", "describe", "name")),
    ):
        if any(sign in words for sign in signs):
            return kind
    return "other"


def _apart(text: str, of: int = BY_TEN) -> bool:
    return int(_drawn(text), 16) % of == 0


def _drawn(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _folder(data: Path | None) -> Path:
    if data is None:
        raise TaskError("--data: wanted for this kind; name a folder with data sets (docs/data.md)")
    return data


def _read(path: Path) -> Iterator[dict[str, Any]]:
    from harness.data import read_rows

    if not path.is_file():
        raise TaskError(f"{path}: no such file; put the data set there (docs/data.md)")
    yield from read_rows(str(path), path.read_bytes())


def _rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


KINDS = {"held-out": held_out, "code": code, "languages": languages, "sft": sft, "math": math, "pairs": pairs}


def main() -> None:
    """Write the texts of one kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--data", type=Path, help="a folder with data sets (docs/data.md)")
    asked = parser.parse_args()
    try:
        print(KINDS[asked.kind](asked.out, asked.data))
    except TaskError as error:
        print(f"harness.claims.texts: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
