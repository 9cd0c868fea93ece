"""Filters that score a document: a classifier learnt from good and bad examples, and a small model's perplexity.

The report names such scorers and none of their numbers. The classifier is a logistic regression on which words and
pairs of words a text has, hashed to FEATURES columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from harness.contamination import gram_hashes, words
from harness.records import write_atomic
from qwen_train.data.config import DataConfig, Perplexity, Quality
from qwen_train.data.files import open_array, save_array
from qwen_train.data.html import plain_text
from qwen_train.data.read import Quarantine, read, shards
from qwen_train.errors import TrainError

FEATURES = 1 << 18
READ = 20_000
"""Characters of a document that are scored."""
EXAMPLES = 20_000
"""Of each side that are learnt from, the first ones."""
FEWEST = 10
WEIGHTS, FACTS = "quality.npy", "quality.json"


def _columns(text: str) -> Any:
    """The columns of a text's words and pairs, each once."""
    hashes = words(text[:READ]).hashes
    both = np.concatenate([hashes, gram_hashes(hashes, [2])[2]])
    return np.unique(both & np.uint64(FEATURES - 1)).astype(np.int64)


def train_quality(wanted: Quality, field: str, work: Path) -> dict[str, float]:
    """Learn the classifier; returns (and writes) how it does on every fifth example when learnt from the others.

    Raises TrainError where there are too few examples.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    sides = [
        [_columns(text) for text in islice(_examples(path, field), EXAMPLES)] for path in (wanted.bad, wanted.good)
    ]
    for path, side in zip((wanted.bad, wanted.good), sides, strict=True):
        if len(side) < FEWEST:
            raise TrainError(f"quality: {path}: {len(side)} examples; give at least {FEWEST}")
    table = _table([*sides[0], *sides[1]])
    labels: Any = np.repeat([0, 1], [len(side) for side in sides])
    held = np.concatenate([np.arange(len(side)) % 5 == 0 for side in sides])
    fit = LogisticRegression(class_weight="balanced", max_iter=1000)
    tried = fit.fit(table[~held], labels[~held]).decision_function(table[held])
    facts = {
        "bad": len(sides[0]),
        "good": len(sides[1]),
        "held_out_accuracy": float(((tried > 0) == labels[held]).mean()),
        "held_out_auc": float(roc_auc_score(labels[held], tried)),
    }
    fit.fit(table, labels)
    save_array(work / WEIGHTS, np.append(fit.coef_[0], fit.intercept_))
    write_atomic(work / FACTS, json.dumps(facts) + "\n")
    return facts


def _examples(path: Path, field: str) -> Iterator[str]:
    """The texts of a side; bad lines are left out."""
    for shard in shards([path], []):
        for place in shard:
            tally = Quarantine(lambda line, why, raw: None)
            yield from filter(None, map(plain_text, read(place, field, (), tally)))
            if tally.broken is not None:
                raise TrainError(f"quality: {place.file}: {tally.broken}; remove or replace it")


def _table(rows: list[Any]) -> Any:
    from scipy.sparse import csr_matrix

    bounds = np.cumsum([0, *map(len, rows)])
    return csr_matrix((np.ones(bounds[-1]), np.concatenate(rows), bounds), shape=(len(rows), FEATURES))


class Scores:
    """The scorers that are asked for."""

    def __init__(self, config: DataConfig, work: Path) -> None:
        self._quality, self._perplexity = config.quality, config.perplexity
        self._weights = open_array(work / WEIGHTS) if config.quality else None
        self._model = _Model(config.perplexity) if config.perplexity else None

    def quality(self, text: str) -> float:
        """Probability of being good."""
        if self._weights is None:
            raise ValueError("no classifier")
        score = self._weights[_columns(text)].sum() + self._weights[-1]
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, float(score)))))

    def dropped(self, text: str) -> tuple[str, list[str]] | None:
        """(Fate, score), None if the text stays."""
        if self._quality and (good := self.quality(text)) < self._quality.least:
            return "quality", [f"{good:.4f}"]
        if self._perplexity and self._model:
            value = self._model.perplexity(text)
            if value > self._perplexity.most:
                return "perplexity", [f"{value:.4g}"]
        return None


class _Model:
    """Perplexity of a text's first tokens by a checkpoint, one text at a time: the same whatever stands beside it."""

    def __init__(self, wanted: Perplexity) -> None:
        from qwen_model import load_model
        from qwen_model.checkpoint import find_checkpoint, load_tokenizer

        found = find_checkpoint(wanted.model)
        self._tokenizer, self._model, self._tokens = load_tokenizer(found), load_model(found), wanted.tokens

    def perplexity(self, text: str) -> float:
        """Of 8 characters a token and more the rest is not read; 0 of fewer than two tokens."""
        import torch

        ids = self._tokenizer.encode(text[: 8 * self._tokens])[: self._tokens]
        if len(ids) < 2:
            return 0.0
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as many texts at once as there are processes
        try:
            with torch.inference_mode():
                logits = self._model(torch.tensor([ids]))[0, :-1].float()
                return math.exp(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item())
        finally:
            torch.set_num_threads(threads)
