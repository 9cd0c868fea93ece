"""Tokens per second of the project's own decoder, as JSON, with the limits of the machine: prefill, greedy decoding.

    python -m tests.bench.ours_peer MODEL --threads 2

The same work, prompts and keys as in transformers_peer.py. Decoding goes through `Generator`, as a run does; only the
end token is not heeded, as the peers are told too.
"""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import torch

from qwen_model import kernels, load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.decoder import Decoder, Linear
from qwen_model.generation import Generator, Request
from qwen_model.prefill import Reader
from tests.bench.transformers_peer import arguments, rates, seconds

QUIET = SimpleNamespace(eos_ids=(), decode=lambda ids: "")


def prefill(model: Decoder, tokens: int, last: bool, repeats: int) -> list[float]:
    ids = (100 + torch.arange(tokens) * 7 % 5000)[None]
    keep = torch.tensor([tokens - 1]) if last else None
    return seconds(lambda: model(ids, keep=keep), repeats)


def decode(model: Decoder, sequences: int, prompt: int, new: int, repeats: int) -> list[float]:
    """Seconds of `new` greedy steps behind prompts of `prompt` tokens, whose reading is taken off."""
    ids = 100 + (torch.arange(prompt) * 7 + torch.arange(sequences)[:, None] * 31) % 5000

    def write(count: int) -> None:
        generator: Generator[int] = Generator(model, QUIET, Reader(model, batch_tokens=512), slots=sequences)
        generator.add([Request(key=i, prompt=tuple(row), max_tokens=count) for i, row in enumerate(ids.tolist())])
        while generator.busy:
            generator.step()

    reading = min(seconds(lambda: write(1), repeats))
    return [whole - reading for whole in seconds(lambda: write(1 + new), repeats)]


def limits() -> dict[str, float]:
    """The machine's own: matrix products in GFLOP/s, reading of memory in GB/s, the best of several tries."""
    out = {}
    onednn = torch.ops.mkldnn._linear_pointwise
    for dtype in ("float32", "bfloat16"):
        left, right = (torch.randn(2048, 2048).to(getattr(torch, dtype)) for _ in range(2))
        # torch.matmul and oneDNN differ in float32; the limit is the better one
        by_torch = min(seconds(lambda a=left, b=right: a @ b, 5))
        by_onednn = min(seconds(lambda a=left, b=right: onednn(a, b, None, "none", [], ""), 5))
        out[f"{dtype} GFLOP/s"] = 2 * 2048**3 / min(by_torch, by_onednn) / 1e9
    memory = torch.ones(250_000_000)
    out["GB/s"] = memory.nbytes / min(seconds(memory.sum, 5)) / 1e9
    return out


def work(model: Decoder) -> dict[str, float]:
    """What a token costs at least: FLOPs in the layers and in the output matrix, bytes read to write the next one."""
    layers = sum(p.numel() for p in model.model.layers.parameters())
    head = model.lm_head.weight.numel()
    linear = [layer for layer in model.modules() if isinstance(layer, Linear)]
    read = sum(_bytes(layer) for layer in linear)
    return {"layer FLOPs": 2.0 * layers, "head FLOPs": 2.0 * head, "bytes": float(read)}


def _bytes(layer: Linear) -> int:
    if layer.codes is None:
        return layer.weight.nbytes
    parts = (layer.codes.codes, layer.codes.scales, layer.codes.mins)
    return sum(part.nbytes for part in parts if part is not None)


def main() -> None:
    args = arguments(__doc__.splitlines()[0], "model")
    checkpoint = find_checkpoint(args.model)
    out: dict[str, object] = {
        "engine": f"qwen_model, {kernels.describe()}",
        "threads": args.threads,
        "limits": limits(),
    }
    for dtype in args.dtype:
        start = time.perf_counter()
        model = load_model(checkpoint, dtype)
        load_tokenizer(checkpoint)
        out[f"{dtype} load seconds"] = time.perf_counter() - start
        out[f"{dtype} work"] = work(model)
        for size in args.prefill:
            for name, last in (("", False), (" last logits", True)):
                out[f"{dtype} prefill {size}{name}"] = rates(size, prefill(model, size, last, args.repeats))
        for size in args.batch:
            taken = decode(model, size, args.prompt, args.new, args.repeats)
            out[f"{dtype} decode batch {size}"] = rates(size * args.new, taken)
        del model
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
