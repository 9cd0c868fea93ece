"""`make bench`: the project's decoder against its peers on the same weights, in one run; writes docs/performance.md.

    python -m tests.bench.model_speed --model qwen2.5-coder-0.5b-instruct --llama-python PATH

Every engine is a process of its own; they take turns, `--rounds` times. A ratio is formed within a round, and the
median of the rounds is quoted with their least and greatest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from harness.environment import describe
from qwen_model.catalogue import obtain
from qwen_model.checkpoint import find_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
Round = dict[str, dict[str, Any]]

LOAD = """
import sys, time, torch
from transformers import AutoModelForCausalLM
start = time.perf_counter()
AutoModelForCausalLM.from_pretrained(sys.argv[1], gguf_file=sys.argv[2], dtype=sys.argv[3])
print(time.perf_counter() - start)
"""


def run(command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def measure(args: argparse.Namespace) -> tuple[list[Round], dict[str, Any], dict[str, Any]]:
    gguf, folder = obtain(args.model), str(find_checkpoint(args.model).folder)
    threads = ["--threads", str(args.threads)]
    once = [*threads, "--repeats", "1"]  # after a warm-up; the rounds are what is repeated
    rounds: list[Round] = []
    start = time.monotonic()
    for number in range(args.rounds):
        taken: Round = {}
        for dtype in ("bfloat16", "float32"):
            ours = [sys.executable, "-m", "tests.bench.ours_peer", args.model, *once, "--dtype", dtype]
            theirs = [sys.executable, "-m", "tests.bench.transformers_peer", folder, *once, "--dtype", dtype]
            taken[f"ours {dtype}"] = run(ours)
            taken[f"transformers {dtype}"] = run(theirs)
            load = [sys.executable, "-c", LOAD, str(gguf.parent), gguf.name, dtype]
            taken[f"transformers {dtype}"][f"{dtype} load seconds"] = run(load)
        if args.llama_python:
            script = str(Path(__file__).with_name("llama_cpp_peer.py"))
            taken["llama.cpp"] = run([args.llama_python, script, str(gguf), *threads, "--prefill", "512", "2048"])
        rounds.append(taken)
        spent = time.monotonic() - start
        left = spent / (number + 1) * (args.rounds - number - 1)
        print(f"round {number + 1} of {args.rounds}; {spent:.0f} s, about {left:.0f} s left", file=sys.stderr)
    windows = run([sys.executable, "-m", "tests.bench.windows", *threads, "--repeats", str(args.rounds)])
    profile = run([sys.executable, "-m", "tests.bench.profile_decoder", args.model, *threads])
    return rounds, windows, profile


def spread(values: list[float], form: str = "{:.2f}") -> str:
    """Median (least to greatest)."""
    numbers = [form.format(value) for value in (statistics.median(values), min(values), max(values))]
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})"


def ratio(rounds: list[Round], mine: Callable[[Round], float], theirs: Callable[[Round], float]) -> str:
    return spread([mine(taken) / theirs(taken) for taken in rounds]) + " x"


def rate(engine: str, key: str) -> Callable[[Round], float]:
    return lambda taken: taken[engine][key]["best"]  # type: ignore[no-any-return]


def share(rounds: list[Round], dtype: str, key: str) -> str:
    """How much of the machine's limit our rate is, in per cent."""
    shares = []
    for taken in rounds:
        ours = taken[f"ours {dtype}"]
        work, limits = ours[f"{dtype} work"], ours["limits"]
        tokens = ours[key]["best"]
        arithmetic = tokens * (work["layer FLOPs"] + (0 if "last" in key else work["head FLOPs"]))
        of_peak = arithmetic / limits[f"{dtype} GFLOP/s"] / 1e9
        batch = int(key.split()[-1]) if "batch" in key else 0
        of_bandwidth = tokens * work["bytes"] / limits["GB/s"] / 1e9
        shares.append(100 * (of_bandwidth if batch == 1 else of_peak))
    which = "memory" if batch == 1 else "matmul peak"
    return f"{spread(shares, '{:.0f}')} % of {which}"


WORK = {
    "prefill 512": "read 512 tokens, all logits",
    "prefill 2048": "read 2,048 tokens, all logits",
    "prefill 512 last logits": "read 512 tokens, logits of the last",
    "prefill 2048 last logits": "read 2,048 tokens, logits of the last",
    "decode batch 1": "write, 1 text",
    "decode batch 16": "write, 16 texts",
}


def speed_rows(rounds: list[Round]) -> list[list[str]]:
    rows = []
    for dtype in ("bfloat16", "float32"):
        for key, what in WORK.items():
            own = f"{dtype} {key}"
            ours = rate(f"ours {dtype}", own)
            cells = [dtype, what, spread([ours(taken) for taken in rounds], "{:.1f}")]
            cells.append(ratio(rounds, ours, rate(f"transformers {dtype}", own)))
            full = own.removesuffix(" last logits")
            cells.append(ratio(rounds, ours, rate(f"transformers {dtype}", full)) if full != own else "")
            llama = key.removesuffix(" last logits")  # llama.cpp computes the last position's logits only
            comparable = "llama.cpp" in rounds[0] and (llama != key or key.startswith("decode"))
            cells.append(ratio(rounds, ours, rate("llama.cpp", llama)) if comparable else "")
            cells.append(share(rounds, dtype, own))
            rows.append(cells)
    return rows


def load_rows(rounds: list[Round]) -> list[list[str]]:
    rows = []
    for dtype in ("bfloat16", "float32"):
        key = f"{dtype} load seconds"
        ours, theirs = ([taken[f"{who} {dtype}"][key] for taken in rounds] for who in ("ours", "transformers"))
        faster = [b / a for a, b in zip(ours, theirs, strict=True)]
        rows.append([dtype, spread(ours), spread(theirs), f"{spread(faster, '{:.0f}')} x"])
    return rows


def window_rows(found: dict[str, Any]) -> list[list[str]]:
    rows = [
        [f"time, {name}, against {what}", f"{spread(found[f'{name} {way} ratios'])} x"]
        for name in ("bfloat16", "float32")
        for way, what in (("full", "our full attention"), ("torch", "torch's"))
    ]
    cache = found["cache bytes, full"] / found["cache bytes, window"]
    rows.append(["keys and values kept while decoding", f"{cache:.1f} x"])
    masked = found["working bytes, mask"] / found["working bytes, window"]
    rows.append(["working memory of a pass, against the same window as a T x T mask", f"{masked:.0f} x"])
    plain = found["working bytes, full"] / found["working bytes, window"]
    rows.append(["the same, against causal attention without any mask", f"{plain:.2f} x"])
    return rows


def page(args: argparse.Namespace, rounds: list[Round], windows: dict[str, Any], profile: dict[str, Any]) -> str:
    first = rounds[0]
    limits = [taken["ours bfloat16"]["limits"] for taken in rounds]
    template = Path(__file__).with_name("performance.md.j2").read_text(encoding="utf-8")
    return jinja2.Template(template, undefined=jinja2.StrictUndefined, keep_trailing_newline=True).render(
        machine=describe()["machine"],
        threads=args.threads,
        model=args.model,
        rounds=args.rounds,
        engines=[first[name]["engine"] for name in first if not name.endswith("float32")],
        limits=[f"{name} {spread([each[name] for each in limits], '{:.0f}')}" for name in limits[0]],
        speed=speed_rows(rounds),
        loading=load_rows(rounds),
        windows=windows,
        window=window_rows(windows),
        profile=profile,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--llama-python", help="an interpreter with llama-cpp-python; without it that column is empty")
    parser.add_argument("--raw", type=Path, help="also keep all measurements in this JSON file")
    args = parser.parse_args()
    rounds, windows, profile = measure(args)
    if args.raw:
        args.raw.write_text(json.dumps({"rounds": rounds, "windows": windows, "profile": profile}, indent=1))
    text = page(args, rounds, windows, profile)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
