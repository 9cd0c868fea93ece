"""Our engine against lm-evaluation-harness's `hf` model on a GPU: `engine_speed`'s work, random weights.

    python -m tests.bench.engine_gpu --write-works works.json          # where the data are
    python -m tests.bench.engine_gpu --works works.json --like FOLDER [--dtype bfloat16] [--share 1] [--rounds 1]

FOLDER has the config.json and the tokenizer of a checkpoint; its weights are drawn anew, so it needs none. Each side is
loaded once, in a process of its own, and does one work after the other; lm-eval with the largest of `BATCHES` that
the GPU's memory does for. Prints a table; memory is what torch allocated on the GPU at most.
Random weights write until the most tokens that a task allows: no stop string ends a text early on either side.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from harness.environment import describe
from qwen_model import save_model
from qwen_model.checkpoint import read_config
from qwen_model.config_json import read_model_config
from qwen_model.decoder import Decoder
from qwen_train.model import measured_peak
from qwen_train.parallel import World
from tests.bench.engine_peer import load
from tests.bench.engine_requests import Work, works
from tests.bench.engine_speed import Taken, least_seconds

BATCHES = (64, 16, 4)
SIDES = ("ours", "lm-eval")


def random_model(like: Path, folder: Path, dtype: str) -> None:
    """A checkpoint of the sizes and the tokenizer of `like`, its weights drawn by seed 0."""
    with torch.device("cuda"):
        model = Decoder(read_model_config(read_config(like), str(like)))
    save_model(model.init_weights(0).to(getattr(torch, dtype)), folder, "qwen2")
    for path in like.glob("tokenizer*"):
        shutil.copy(path, folder)


def take(model: Any, work: Work) -> dict[str, Any]:
    """Answers, seconds, and the most memory on the GPU, of one work."""
    from lm_eval.api.instance import Instance

    asked = [
        Instance(request_type=work.kind, doc={}, arguments=tuple(arguments), idx=0) for arguments in work.arguments
    ]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    answers = getattr(model, work.kind)(asked, disable_tqdm=True)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {"answers": answers, "seconds": seconds, "peak bytes": torch.cuda.max_memory_allocated()}


def side(engine: str, folder: str, everything: Sequence[Work], dtype: str, rounds: int) -> list[dict[str, Any]]:
    """`take` of each work, `rounds` times, and the batch size it was done with."""
    model = load(engine, folder, dtype, 1, "cuda")
    take(model, everything[0].part(0.05))  # what is chosen at first use is not timed
    found = []
    for work in everything:
        for batch in BATCHES if engine == "lm-eval" else (0,):
            if batch:
                model.batch_size_per_gpu = batch
            try:
                found.append({"batch": batch, "rounds": [take(model, work) for _ in range(rounds)]})
                break
            except torch.OutOfMemoryError:
                print(f"{engine}, {work.name}: no memory for a batch of {batch}", file=sys.stderr)
        else:
            raise SystemExit(f"{engine}, {work.name}: no memory for any batch size")
        middle = statistics.median(one["seconds"] for one in found[-1]["rounds"])
        print(f"{engine}, {dtype}, {work.name}: {middle:.1f} s", file=sys.stderr)
    return found


def bandwidth() -> float:
    """Bytes a second of a large copy on the GPU, read and written."""
    a = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    best = 0.0
    for _ in range(8):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        a.clone()
        torch.cuda.synchronize()
        best = max(best, 2 * a.numel() / (time.perf_counter() - begin))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-works", type=Path)
    parser.add_argument("--works", type=Path)
    parser.add_argument("--like", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write_works:
        asked.write_works.write_text(json.dumps([asdict(work) for work in works()]), encoding="utf-8")
        return
    if asked.works is None or (asked.like is None and asked.one is None):
        parser.error("give --works FILE and --like FOLDER, or --write-works FILE")
    everything = [Work(**fields).part(asked.share) for fields in json.loads(asked.works.read_text(encoding="utf-8"))]
    if asked.one:
        engine, folder, out = asked.one
        Path(out).write_text(json.dumps(side(engine, folder, everything, asked.dtype, asked.rounds)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder, found = Path(made) / "model", {}
        random_model(asked.like, folder, asked.dtype)
        for engine in SIDES:
            out = Path(made) / f"{engine}.json"
            command = [sys.executable, "-m", "tests.bench.engine_gpu", "--works", str(asked.works)]
            command += ["--dtype", asked.dtype, "--share", str(asked.share), "--rounds", str(asked.rounds)]
            subprocess.run([*command, "--one", engine, str(folder), str(out)], check=True)
            found[engine] = json.loads(out.read_text())
        peak, copied = measured_peak(World(device=torch.device("cuda")), asked.dtype), bandwidth()
        print(f"{torch.cuda.get_device_name()}, {describe()['machine']}")
        print(f"{asked.dtype}; limits: {peak / 1e12:.0f} TFLOP/s, {copied / 1e9:.0f} GB/s\n")
        print(
            "| work | items | seconds, ours | seconds, lm-eval | faster | lm-eval's batch | memory, ours | memory,"
            " lm-eval | same answers | of the limit |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for number, work in enumerate(everything):
            ours, theirs = (found[engine][number] for engine in SIDES)
            written = ours["rounds"][0]["answers"] if work.kind == "generate_until" else []
            weight = 4 if asked.dtype == "float32" else 2
            floor = least_seconds(str(folder), work, written, peak, copied / weight)
            row = Taken(
                model="", work=work, batch=theirs["batch"], ours=ours["rounds"], theirs=theirs["rounds"], floor=floor
            )
            print(
                f"| {work.name} | {len(work.arguments) // work.per_item} | {row.seconds(row.ours)} |"
                f" {row.seconds(row.theirs)} | {row.ratio('seconds')} | {row.batch} | {row.gigabytes(row.ours)} GB |"
                f" {row.gigabytes(row.theirs)} GB | {row.agreement()} | {row.share()} |"
            )


if __name__ == "__main__":
    main()
