"""Where the decoder's time goes, as JSON: milliseconds by operation, for reading 512 tokens and for a step of writing.

python -m tests.bench.profile_decoder MODEL --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from qwen_model import kernels, load_model
from qwen_model.prefill import Reader
from qwen_model.rows import Rows

PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")


class Kernels:
    """Seconds in each C++ kernel while it is in force."""

    def __enter__(self) -> Kernels:
        self.seconds: dict[str, float] = defaultdict(float)
        self._call = kernels._call

        def timed(name: str, *arguments: Any) -> Any:
            start = time.perf_counter()
            out = self._call(name, *arguments)
            self.seconds[name] += time.perf_counter() - start
            return out

        kernels._call = timed
        return self

    def __exit__(self, *_: object) -> None:
        kernels._call = self._call


def reading(model: Any, tokens: int) -> dict[str, float]:
    ids = (100 + torch.arange(tokens) * 7 % 5000)[None]
    model(ids)
    with Kernels() as own, profile(activities=[ProfilerActivity.CPU]) as recorded:
        start = time.perf_counter()
        model(ids)
        whole = time.perf_counter() - start
    spent = {event.key: event.self_cpu_time_total / 1e6 for event in recorded.key_averages()}
    out = {"matrix products": sum(spent.get(name, 0.0) for name in PRODUCTS)}
    out["attention (kernel)"] = own.seconds.pop("read")
    out["norms, gates, rotations (kernels)"] = sum(own.seconds.values())
    out["all else"] = whole - sum(out.values())
    return {name: 1000 * seconds for name, seconds in out.items()}


def writing(model: Any, rows: int, steps: int) -> dict[str, float]:
    """Medians over `steps` steps behind prompts of 64 tokens."""
    written = Rows(model, Reader(model, 512), rows)
    for row in range(rows):
        written.enter([[100 + (i * 7 + row * 31) % 5000 for i in range(64)]], [(0, 0)])
    taken: dict[str, list[float]] = defaultdict(list)
    for step in range(steps + 3):
        with Kernels() as own:
            start = time.perf_counter()
            written.step([5] * rows)
            whole = time.perf_counter() - start
        if step >= 3:
            taken["layers (kernels)"].append(own.seconds["layers"])
            taken["output head (kernel)"].append(own.seconds["linear"])
            taken["norm, Python and torch"].append(whole - own.seconds["layers"] - own.seconds["linear"])
    return {name: 1000 * statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    model = load_model(args.model, args.dtype)
    out = {"read 512 tokens": reading(model, 512)}
    out |= {f"write, {rows} text{'s' if rows > 1 else ''}": writing(model, rows, 20) for rows in (1, 16)}
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
