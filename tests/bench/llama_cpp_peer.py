"""Tokens per second of llama.cpp on a GGUF file, as JSON: prefill, and greedy decoding at several batch sizes.

Run it with an interpreter that has llama-cpp-python (the project does not depend on it):

    python tests/bench/llama_cpp_peer.py MODEL.gguf --threads 2

Sequences run side by side through llama_batch, which the package's high-level class cannot do.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time

import llama_cpp as api


def context(model: ctypes.c_void_p, threads: int, sequences: int, positions: int) -> ctypes.c_void_p:
    """A context of `sequences` sequences of up to `positions` tokens each."""
    params = api.llama_context_default_params()
    params.n_ctx = sequences * positions
    params.n_batch = params.n_ubatch = 512
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = threads
    made = api.llama_init_from_model(model, params)
    if not made:
        raise SystemExit(f"no context for {sequences} sequences of {positions} tokens")
    return made


def decode(ctx: ctypes.c_void_p, batch: api.llama_batch, entries: list[tuple[int, int, int, bool]]) -> None:
    """One pass over (token, position, sequence, whether its logits are wanted)."""
    batch.n_tokens = len(entries)
    for i, (token, position, sequence, wanted) in enumerate(entries):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
        batch.seq_id[i][0], batch.logits[i] = sequence, wanted
    if api.llama_decode(ctx, batch):
        raise SystemExit("llama_decode failed")


def prefill(model: ctypes.c_void_p, threads: int, tokens: int, repeats: int) -> list[float]:
    """Seconds to read `tokens` tokens, the last position's logits wanted."""
    ctx, batch = context(model, threads, 1, tokens), api.llama_batch_init(512, 0, 1)
    seconds = []
    for _ in range(repeats + 1):
        api.llama_memory_clear(api.llama_get_memory(ctx), True)
        start = time.perf_counter()
        for at in range(0, tokens, 512):
            part = range(at, min(at + 512, tokens))
            decode(ctx, batch, [(100 + i * 7 % 5000, i, 0, i == tokens - 1) for i in part])
        api.llama_get_logits_ith(ctx, -1)  # waits for the result
        seconds.append(time.perf_counter() - start)
    api.llama_batch_free(batch)
    api.llama_free(ctx)
    return seconds[1:]


def steps(model: ctypes.c_void_p, threads: int, sequences: int, prompt: int, new: int) -> list[float]:
    """Seconds of each greedy decoding step of all sequences, after prompts of `prompt` tokens."""
    ctx, batch = context(model, threads, sequences, prompt + new + 8), api.llama_batch_init(512, 0, 1)
    greedy = api.llama_sampler_init_greedy()
    tokens = []
    for sequence in range(sequences):
        entries = [(100 + (i * 7 + sequence * 31) % 5000, i, sequence, i == prompt - 1) for i in range(prompt)]
        decode(ctx, batch, entries)
        tokens.append(api.llama_sampler_sample(greedy, ctx, -1))
    seconds = []
    for step in range(new):
        start = time.perf_counter()
        decode(ctx, batch, [(token, prompt + step, sequence, True) for sequence, token in enumerate(tokens)])
        tokens = [api.llama_sampler_sample(greedy, ctx, sequence) for sequence in range(sequences)]
        seconds.append(time.perf_counter() - start)
    api.llama_sampler_free(greedy)
    api.llama_batch_free(batch)
    api.llama_free(ctx)
    return seconds[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, nargs="*", default=[512], metavar="TOKENS")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16], metavar="SEQUENCES")
    parser.add_argument("--prompt", type=int, default=64, help="tokens before decoding")
    parser.add_argument("--new", type=int, default=32, help="decoding steps")
    parser.add_argument("--repeats", type=int, default=3, help="of each prefill")
    args = parser.parse_args()
    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, None)
    api.llama_backend_init()
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    model = api.llama_model_load_from_file(args.model.encode(), params)
    if not model:
        raise SystemExit(f"{args.model} does not load")
    out: dict[str, object] = {
        "engine": f"llama-cpp-python {api.__version__}",
        "system": api.llama_print_system_info().decode().strip(),
        "threads": args.threads,
    }
    for size in args.prefill:
        taken = prefill(model, args.threads, size, args.repeats)
        out[f"prefill {size}"] = {"best": size / min(taken), "median": size / statistics.median(taken)}
    for size in args.batch:
        taken = steps(model, args.threads, size, args.prompt, args.new)
        out[f"decode batch {size}"] = {"best": size / min(taken), "median": size / statistics.median(taken)}
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
