"""`make bench-engine`: our engine against lm-evaluation-harness's `hf` model on the same requests, in one run; writes
docs/engine-performance.md.

    python -m tests.bench.engine_speed [--models smollm2-135m-instruct:1,qwen2.5-coder-0.5b-instruct:0.2]
                                       [--rounds 3] [--keep runs/bench-engine]

A model's number is the share of the requests that it is asked. Every engine answers in a process of its own; they take
turns. lm-eval's batch size is the quickest of several on a small part of each work. The whole is asked once, in about
45 minutes on two cores, and a fifth of it `--rounds` times, for the spread. With a folder to keep answers in, the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2

from harness.environment import describe
from qwen_model.checkpoint import find_checkpoint, load_tokenizer, read_config
from qwen_model.config_json import read_model_config
from qwen_model.prefixes import shared_length
from tests.bench.engine_requests import Work, works
from tests.bench.model_speed import spread
from tests.bench.ours_peer import limits

PAGE = Path(__file__).parents[2] / "docs" / "engine-performance.md"
BATCHES = (1, 4, 16)
PART = 0.2
"""Of the items, asked in every round."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One work of one model: what both engines needed, round by round, and how their answers compare."""

    model: str
    work: Work
    batch: int
    ours: list[dict[str, Any]]
    theirs: list[dict[str, Any]]
    floor: float
    """Seconds below which no engine can answer on this machine."""
    rounds: Sequence[float] = ()
    """How many times faster ours was on a part of the work, in each round."""

    def ratio(self, key: str) -> str:
        found = [b[key] / a[key] for a, b in zip(self.ours, self.theirs, strict=True)]
        return f"{spread(found) if len(found) > 1 else f'{found[0]:.2f}'} x"

    def seconds(self, engine: list[dict[str, Any]]) -> str:
        return f"{statistics.median(one['seconds'] for one in engine):.1f}"

    def gigabytes(self, engine: list[dict[str, Any]]) -> str:
        return f"{max(one['peak bytes'] for one in engine) / 1e9:.1f}"

    def share(self) -> str:
        return f"{100 * self.floor / statistics.median(one['seconds'] for one in self.ours):.0f} %"

    def agreement(self) -> str:
        """Items answered alike, and the greatest difference in nats where likelihoods are asked."""
        ours, theirs = self.ours[0]["answers"], self.theirs[0]["answers"]
        count, size = len(ours) // self.work.per_item, self.work.per_item
        if self.work.kind == "generate_until":
            return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {count} texts"
        if self.work.kind == "loglikelihood_rolling":
            return f"{max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)):.1e} relative"
        best = [
            [max(range(size), key=lambda i: each[k + i][0]) for k in range(0, len(each), size)]
            for each in (ours, theirs)
        ]
        same = sum(a == b for a, b in zip(*best, strict=True))
        return f"{same} of {count} choices, {max(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)):.1e} nats"


@dataclass(frozen=True)
class Turns:
    """Answers by processes of their own, each kept in a file: what is there already is not asked again."""

    model: str
    dtype: str
    folder: Path

    def answer(self, engine: str, work: Work, batch: int = 1, turn: int | str = "") -> dict[str, Any]:
        name = f"{self.model} {work.name} {len(work.arguments)} {self.dtype} {engine} {batch} {turn}.json"
        out = self.folder / name.replace(" ", "-")
        if not out.exists():
            asked, part = self.folder / "asked.json", out.with_suffix(".part")
            asked.write_text(json.dumps(asdict(work)), encoding="utf-8")
            command = [sys.executable, "-m", "tests.bench.engine_peer", engine, self.model, str(asked), str(part)]
            command += ["--dtype", self.dtype, "--batch", str(batch)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{engine}, {self.model}, {work.name}: exit {done.returncode}\n{done.stderr[-2000:]}")
            part.replace(out)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found

    def best_batch(self, work: Work) -> int:
        """The batch size with which lm-eval answers a small part soonest."""
        part = work.part(0.05, least=4 if work.kind == "generate_until" else 8)
        taken = {batch: self.answer("lm-eval", part, batch)["seconds"] for batch in BATCHES}
        return min(taken, key=taken.__getitem__)


def least_seconds(model: str, work: Work, written: list[str], peak: float, bandwidth: float) -> float:
    """Every distinct token through the layers once and every judged one through the output matrix, at the best matrix
    product's speed; writing may not be quicker than the weights can be read once for the longest reply's tokens."""
    checkpoint = find_checkpoint(model)
    tokenizer = load_tokenizer(checkpoint)
    config = read_model_config(read_config(checkpoint.folder), model)
    head = config.hidden_size * config.vocab_size
    layers = config.num_hidden_layers * (
        config.hidden_size * config.head_dim * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
        + 3 * config.hidden_size * config.intermediate_size
    )
    behind = ["", *written] if work.kind == "generate_until" else None
    texts = [arguments[0] for arguments in work.arguments]
    if work.kind == "loglikelihood":
        texts = [context + continuation for context, continuation in work.arguments]
    sequences = sorted(tokenizer.encode(text) for text in texts)
    distinct = len(sequences[0]) + sum(len(b) - shared_length(a, b) for a, b in pairwise(sequences))
    replies = [len(tokenizer.encode(text)) for text in written] if behind else []
    judged = {"loglikelihood": len(texts), "generate_until": 0, "loglikelihood_rolling": distinct}[work.kind]
    reading = 2 * (distinct * layers + judged * head) / peak
    writing = max(2 * sum(replies) * (layers + head) / peak, max(replies, default=0) * (layers + head) / bandwidth)
    return reading + writing


def measure(models: dict[str, float], dtype: str, rounds: int, folder: Path) -> tuple[list[Taken], dict[str, float]]:
    machine, everything = limits(), works()
    peak = machine[f"{dtype} GFLOP/s"] * 1e9
    found: list[Taken] = []
    start, steps = time.monotonic(), len(models) * len(everything)
    for model, share in models.items():
        turns = Turns(model, dtype, folder)
        for work in (one.part(share) for one in everything):
            batch = turns.best_batch(work)
            ours, theirs = [turns.answer("ours", work)], [turns.answer("lm-eval", work, batch)]
            part = work.part(PART)
            again = [
                (turns.answer("ours", part, turn=turn), turns.answer("lm-eval", part, batch, turn))
                for turn in range(1, rounds + 1)
            ]
            written = ours[0]["answers"] if work.kind == "generate_until" else []
            # a weight of the 4-bit codes may be read as half a byte; the floor takes the bytes of the type computed in
            bandwidth = machine["GB/s"] * 1e9 / (4 if dtype == "float32" else 2)
            floor = least_seconds(model, work, written, peak, bandwidth)
            faster = [their["seconds"] / our["seconds"] for our, their in again]
            taken = Taken(model=model, work=work, batch=batch, ours=ours, theirs=theirs, floor=floor, rounds=faster)
            found.append(taken)
            spent = time.monotonic() - start
            print(
                f"{model}, {work.name}: {taken.ratio('seconds')}, {taken.agreement()}; {spent:.0f} s spent, about "
                f"{spent / len(found) * (steps - len(found)):.0f} s left",
                file=sys.stderr,
            )
    return found, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="smollm2-135m-instruct:1,qwen2.5-coder-0.5b-instruct:0.2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the answers, of one state of the code")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds} leaves no spread; give 1 or more")
    models = {name: float(share or 1) for name, _, share in (one.partition(":") for one in options.models.split(","))}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found, machine = measure(models, options.dtype, options.rounds, folder)
    template = Path(__file__).with_name("engine_performance.md.j2").read_text(encoding="utf-8")
    text = jinja2.Template(template, undefined=jinja2.StrictUndefined, keep_trailing_newline=True).render(
        found=found,
        options=options,
        machine=describe()["machine"],
        limits=[f"{name} {value:.0f}" for name, value in machine.items()],
        lm_eval=version("lm-eval"),
        batches=BATCHES,
        part=PART,
        spread=spread,
    )
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
