"""Tiny models and data for whole stages."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.conftest import make_checkpoint
from tests.processes import one_thread  # noqa: F401

WORDS = ("red", "blue", "cat", "dog", "sun", "rain")


def write_rows(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> str:
    """A random base model of 2 layers."""
    folder = tmp_path_factory.mktemp("base")
    return str(make_checkpoint(folder, num_hidden_layers=2, initializer_range=0.02))


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, str]:
    """Conversations whose answer repeats the question's word, and pairs in which that is the better answer."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    talks, pairs, queries, style = [], [], [], []
    talks.append({"instruction": "Say it " * 200, "input": "", "output": "longer than any row"})
    for _ in range(40):
        word, other = draw.sample(WORDS, 2)
        talks.append({"instruction": f"Say {word}", "input": "", "output": word})
        pairs.append({"prompt": f"Say {word}", "chosen": word, "rejected": other})
        style.append({"prompt": f"Say {word}", "chosen": f"{word}!", "rejected": f"{word}?"})
        queries.append({"prompt": f"Say {word}"})
    texts = [{"text": " ".join(draw.choices(WORDS, k=200))} for _ in range(10)]
    reward = folder / "reward.py"
    reward.write_text("def short(query, answer):\n    return -len(answer) / 10\n")
    files = {"sft": talks, "pairs": pairs, "queries": queries, "style": style, "texts": texts}
    return {name: write_rows(folder / f"{name}.jsonl", rows) for name, rows in files.items()} | {
        "reward": f"{reward}:short"
    }
