"""Perplexity by length, as in the report's Table 3: how well a model reads on where texts grow beyond what it knows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import ClassVar

from tasks.api import Kind, Loader, Model, Prompt, Sample, Sandbox, Task, TaskError, Verdict
from tasks.documents import read_documents

LENGTHS = (1024, 2048, 4096, 8192, 16384)
"""Those of the report's table."""
BIN = 256
"""Positions whose losses are kept as one mean."""


class LongPPL(Task):
    """Tokens 2 to L of the first L tokens of each document, read in one pass; one group of samples per length."""

    name: ClassVar[str] = "long-ppl"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "perplexity by length"
    protocol = "base"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "perplexity"
    measures: ClassVar[dict[str, Kind]] = {"perplexity": "perplexity"}
    takes: ClassVar[frozenset[str]] = frozenset({"documents", "lengths", "stride"})
    one_reading: ClassVar[bool] = True

    def samples(self, load: Loader) -> list[Sample]:
        self.lengths, self.stride = self.options.lengths or LENGTHS, self.options.stride
        if min(self.lengths) < 2:
            raise TaskError(f"--lengths: {min(self.lengths)} tokens have no token to judge; give 2 or more")
        if len(set(self.lengths)) < len(self.lengths):
            raise TaskError("--lengths: one is named twice; name it once")
        if self.stride is not None and not 1 <= self.stride < min(self.lengths):
            raise TaskError(f"--stride: {self.stride} is not from 1 to {min(self.lengths) - 1}, below every length")
        if self.options.documents is None:
            raise TaskError(
                "long-ppl: no texts named; give --documents FOLDER with .txt files, or a .jsonl file with a field text"
            )
        self.texts = read_documents(self.options.documents)
        digests = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in self.texts.items()}
        return [
            Sample(
                id=f"{self.name}/{name}/{length}",
                fields={"document": name, "length": length, "stride": self.stride, "text": digests[name]},
                gold="",
                group=str(length),
            )
            for name in self.texts
            for length in sorted(self.lengths)
        ]

    def fit(self, samples: list[Sample], count: Callable[[str], int]) -> tuple[list[Sample], list[str]]:
        """All lengths judge the same documents: those that are long enough for the greatest."""
        longest = max(self.lengths)
        tokens = {name: count(self.texts[name]) for name in {sample.fields["document"]: None for sample in samples}}
        short = {name: number for name, number in tokens.items() if number < longest}
        fitting = [sample for sample in samples if sample.fields["document"] not in short]
        if not fitting:
            raise TaskError(
                f"--documents: the longest has {max(tokens.values()):,} tokens and --lengths asks for {longest:,}; "
                "give longer documents or ask for shorter lengths"
            )
        return fitting, [f"{name} left out: {number:,} of {longest:,} tokens" for name, number in short.items()]

    def prompt(self, sample: Sample) -> Prompt:
        return self.texts[sample.fields["document"]]

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        text = self.texts[sample.fields["document"]]
        read = await model.rolling(text, length=sample.fields["length"], stride=self.stride)
        losses = [-logprob for logprob in read.logprobs]
        bins = [losses[max(start - 1, 0) : start - 1 + BIN] for start in range(0, len(losses) + 1, BIN)]
        return Verdict(
            answer=None,
            outcome="measured",
            scores={"perplexity": math.fsum(losses) / len(losses)},
            detail={
                "tokens": read.tokens,
                "judged": len(losses),
                "bin": BIN,
                "losses": [round(math.fsum(values) / len(values), 6) for values in bins if values],
                "seconds": None if read.seconds is None else round(read.seconds, 3),
                "peak_mb": None if read.peak is None else round(read.peak / 1e6),
            },
        )
