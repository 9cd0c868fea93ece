"""Tokens per second of transformers on a converted checkpoint folder, as JSON: prefill, and greedy decoding.

    python tests/bench/transformers_peer.py FOLDER --threads 2

As a user would: `generate` with its default cache and SDPA attention. Prefill is measured with all logits and with
the last position's only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from transformers import AutoModelForCausalLM


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--prefill", type=int, nargs="*", default=[512, 2048], metavar="TOKENS")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16], metavar="SEQUENCES")
    parser.add_argument("--prompt", type=int, default=64, help="tokens before decoding")
    parser.add_argument("--new", type=int, default=32, help="decoding steps")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    out: dict[str, object] = {
        "engine": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "threads": args.threads,
    }
    for dtype in args.dtype:
        model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=dtype, attn_implementation="sdpa").eval()
        for size in args.prefill:
            ids = (100 + torch.arange(size) * 7 % 5000)[None]
            for name, keep in (("", 0), (" last logits", 1)):
                taken = seconds(lambda ids=ids, keep=keep: model(ids, logits_to_keep=keep), args.repeats)
                out[f"{dtype} prefill {size}{name}"] = _rates(size, taken)
        for size in args.batch:
            ids = 100 + (torch.arange(args.prompt) * 7 + torch.arange(size)[:, None] * 31) % 5000
            settings = {"do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}

            def new(count: int, ids: torch.Tensor = ids, settings: dict[str, object] = settings) -> object:
                return model.generate(ids, min_new_tokens=count, max_new_tokens=count, **settings)

            # the prompt's share is taken off by a run of one token
            prompt = min(seconds(lambda: new(1), args.repeats))
            taken = [whole - prompt for whole in seconds(lambda: new(1 + args.new), args.repeats)]
            out[f"{dtype} decode batch {size}"] = _rates(size * args.new, taken)
        del model
    print(json.dumps(out, indent=1))


def _rates(tokens: int, taken: list[float]) -> dict[str, float]:
    return {"best": tokens / min(taken), "median": tokens / statistics.median(taken)}


if __name__ == "__main__":
    main()
