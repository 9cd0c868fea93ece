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
from transformers import AutoModelForCausalLM, PreTrainedModel


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def prefill(model: PreTrainedModel, tokens: int, keep: int, repeats: int) -> list[float]:
    """Seconds to read `tokens` tokens and give the logits of the last `keep`, all if 0."""
    ids = (100 + torch.arange(tokens) * 7 % 5000)[None]
    return seconds(lambda: model(ids, logits_to_keep=keep), repeats)


def decode(model: PreTrainedModel, sequences: int, prompt: int, new: int, repeats: int) -> list[float]:
    """Seconds of `new` greedy steps behind prompts of `prompt` tokens, whose reading is taken off."""
    ids = 100 + (torch.arange(prompt) * 7 + torch.arange(sequences)[:, None] * 31) % 5000
    mask = torch.ones_like(ids)

    def write(count: int) -> object:
        return model.generate(
            ids, attention_mask=mask, do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0
        )

    reading = min(seconds(lambda: write(1), repeats))
    return [whole - reading for whole in seconds(lambda: write(1 + new), repeats)]


def rates(tokens: int, taken: list[float]) -> dict[str, float]:
    """Tokens per second: of the best run and of the median one."""
    return {"best": tokens / min(taken), "median": tokens / statistics.median(taken)}


def arguments(description: str, model: str) -> argparse.Namespace:
    """The command line that both engines share; `model` names its first argument."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(model)
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
    return args


def main() -> None:
    args = arguments(__doc__.splitlines()[0], "folder")
    out: dict[str, object] = {
        "engine": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "threads": args.threads,
    }
    for dtype in args.dtype:
        model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=dtype, attn_implementation="sdpa").eval()
        for size in args.prefill:
            for name, keep in (("", 0), (" last logits", 1)):
                taken = prefill(model, size, keep, args.repeats)
                out[f"{dtype} prefill {size}{name}"] = rates(size, taken)
        for size in args.batch:
            taken = decode(model, size, args.prompt, args.new, args.repeats)
            out[f"{dtype} decode batch {size}"] = rates(size * args.new, taken)
        del model
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
