"""What windows save in attention at long lengths, as JSON: seconds and memory with a window and without.

    python -m tests.bench.windows --threads 2

Heads as in Qwen2.5-0.5B (14 query, 2 key-value, 64 wide), one layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from qwen_model.attention import attend
from qwen_model.cache import CacheShape
from qwen_model.layout import Plain

HEADS, GROUPS, DIM = 14, 2, 64


def tensors(tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(1, HEADS, tokens, DIM).to(dtype),
        torch.randn(1, GROUPS, tokens, DIM).to(dtype),
        torch.randn(1, GROUPS, tokens, DIM).to(dtype),
    )


def compare(tokens: int, window: int, dtype: torch.dtype, repeats: int) -> dict[str, list[float]]:
    """Seconds of full and of windowed attention, and of torch's full one, in turns."""
    q, k, v = tensors(tokens, dtype)
    layout = Plain(tokens, steps=torch.zeros(1, 1, dtype=torch.long))
    taken: dict[str, list[float]] = {"full": [], "window": [], "torch": []}
    for turn in range(repeats + 1):
        for name, width, backend in (("full", None, None), ("window", window, None), ("torch", None, "sdpa")):
            start = time.perf_counter()
            attend(q, k, v, layout, width, backend)
            if turn:  # the first turn warms up
                taken[name].append(time.perf_counter() - start)
    return taken


def peak_growth(tokens: int, window: int, way: str) -> int:
    """Bytes by which one prefill of this process's attention raised its peak; call it in a process of its own."""
    q, k, v = tensors(tokens, torch.bfloat16)
    layout = Plain(tokens, steps=torch.zeros(1, 1, dtype=torch.long))
    attend(q[:, :, :512], k[:, :, :512], v[:, :, :512], Plain(512, steps=layout.steps))  # threads and buffers
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    if way == "mask":
        mask = layout.mask(window)
        torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    else:
        attend(q, k, v, layout, window if way == "window" else None)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--memory-of", choices=["full", "window", "mask"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    if args.memory_of:
        print(peak_growth(args.tokens, args.window, args.memory_of))
        return
    out: dict[str, object] = {"tokens": args.tokens, "window": args.window}
    for dtype in (torch.bfloat16, torch.float32):
        taken = compare(args.tokens, args.window, dtype, args.repeats)
        name = str(dtype).removeprefix("torch.")
        out[f"{name} seconds"] = {way: statistics.median(values) for way, values in taken.items()}
        for way in ("full", "torch"):
            out[f"{name} {way} ratios"] = [a / b for a, b in zip(taken[way], taken["window"], strict=True)]
    for way in ("full", "window", "mask"):
        command = [sys.executable, "-m", "tests.bench.windows", *sys.argv[1:], "--memory-of", way]
        out[f"working bytes, {way}"] = int(subprocess.run(command, check=True, capture_output=True).stdout)
    for way, window in (("full", None), ("window", args.window)):
        shape = CacheShape(heads=GROUPS, head_dim=DIM, windows=(window,))
        out[f"cache bytes, {way}"] = shape.nbytes(1, args.tokens, torch.bfloat16)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
