"""Tokens a second and memory of a training step: ours against a plain transformers + AdamW loop, same model and data.

    python -m tests.bench.training_speed [--rounds 3] [--threads 2] [--cases nano,vocabulary]
    python -m tests.bench.training_speed --device cuda      # Qwen-1.8B, on a GPU

Each measurement is a process of its own, sides in turn. The peer is transformers' Qwen2 in its usual loop: float32
weights under bfloat16 autocast, `model(input_ids, labels=...)`, `clip_grad_norm_`, fused AdamW, weight decay as ours.
Ours is `qwen_train.trainer.Update` in bfloat16. The share of the peak: `flops_per_token` of
qwen_train/model.py over a bfloat16 matrix product (1,024 x 1,024 on a CPU, 8,192 x 8,192 on a GPU) timed in the same
process. Memory is the process's peak, libraries included; on a GPU what torch has allocated there. `compiled` is ours
with the recipe's `compile: true`; on a GPU the peer is compiled too, by `torch.compile(model)`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from qwen_train.parallel import World, join_world

CASES: dict[str, dict[str, Any]] = {
    "1.8b": {"preset": "qwen-1.8b", "changes": {}, "batch": 4, "context": 2048, "steps": 12},
    # 7.6 M parameters as a laptop trains them
    "nano": {"preset": "nano-8m", "changes": {}, "batch": 16, "context": 256, "steps": 6},
    # the whole vocabulary over a narrow model: where logits are most of the memory
    "vocabulary": {"preset": "nano-8m", "changes": {"vocab_size": 151936}, "batch": 2, "context": 1024, "steps": 2},
}


WARM = {"cpu": 2, "cuda": 3}
"""Steps before the clock runs: the first ones compile."""
OF_DEVICE = {"cpu": "nano,vocabulary", "cuda": "1.8b"}
SIDES = {"cpu": ("ours", "compiled", "theirs"), "cuda": ("compiled", "theirs")}


def batch(case: dict[str, Any], vocabulary: int, world: World) -> torch.Tensor:
    """Rows one token longer than is read."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (case["batch"], case["context"] + 1), generator=generator).to(world.device)


def ours(case: dict[str, Any], config: Any, world: World, compiled: bool = False) -> Callable[[], object]:
    from qwen_train.model import new_module
    from qwen_train.recipe import Training
    from qwen_train.trainer import Micro, Optimiser, Update

    sizes = {"batch": case["batch"], "micro_batch": case["batch"], "context": case["context"]}
    training = Training(tokens=1, **sizes, compile=compiled)
    update = Update(new_module(config, training, world).train(), Optimiser(), world)
    rows = batch(case, config.vocab_size, world)
    read = case["batch"] * case["context"]
    micro = Micro({"input_ids": rows[:, :-1], "targets": rows[:, 1:]}, read, read)
    return lambda: update.step([micro], 1e-4)


def theirs(case: dict[str, Any], config: Any, world: World) -> Callable[[], object]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )
    )
    model = model.train().to(world.device)
    decayed, others = ([p for p in model.parameters() if (p.ndim > 1) == big] for big in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    rows = batch(case, config.vocab_size, world)[:, :-1]
    run = torch.compile(model) if world.device.type == "cuda" else model

    def step() -> None:
        with torch.autocast(world.device.type, torch.bfloat16):
            loss = run(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()

    return step


def measure(side: str, name: str, threads: int, world: World) -> dict[str, float]:
    """One process's numbers."""
    from qwen_model import PRESETS
    from qwen_train.model import flops_per_token, measured_peak
    from qwen_train.trainer.progress import peak_memory

    torch.set_num_threads(threads)
    case = CASES[name]
    config = dataclasses.replace(PRESETS[case["preset"]], train_length=case["context"], **case["changes"])
    peak = measured_peak(world, "bfloat16")
    made = {"theirs": theirs, "ours": ours, "compiled": partial(ours, compiled=True)}[side]
    step = made(case, config, world)
    for _ in range(WARM[world.device.type]):
        step()
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    seconds, processor = [], []
    for _ in range(case["steps"]):
        begin, begin_processor = time.perf_counter(), time.process_time()
        step()
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        processor.append(time.process_time() - begin_processor)
    read = case["batch"] * case["context"]
    speed = read / statistics.median(seconds)
    return {
        "speed": speed,
        "per_processor_second": read / statistics.median(processor),
        "share": flops_per_token(config, case["context"]) * speed / peak,
        "memory": peak_memory(world.device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=tuple(OF_DEVICE), default="cpu")
    parser.add_argument("--cases", help="separated by commas; default: those of the device")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        with join_world(asked.device) as world:
            print(json.dumps(measure(*asked.one, asked.threads, world)))
        return
    print("| case | side | tokens/s | tokens per processor-second | share of peak | memory, MB |")
    print("|---|---|---|---|---|---|")
    for name in (asked.cases or OF_DEVICE[asked.device]).split(","):
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES[asked.device]}
        for _ in range(asked.rounds):
            for side, rounds in found.items():
                command = [sys.executable, "-m", "tests.bench.training_speed", "--threads", str(asked.threads)]
                command += ["--device", asked.device]
                done = subprocess.run([*command, "--one", side, name], check=True, capture_output=True, text=True)
                rounds.append(json.loads(done.stdout))
        middle = {
            side: {key: statistics.median(round_[key] for round_ in rounds) for key in rounds[0]}
            for side, rounds in found.items()
        }
        for side, m in middle.items():
            print(
                f"| {name} | {side} | {m['speed']:,.0f} | {m['per_processor_second']:,.0f} | {100 * m['share']:.0f} % |"
                f" {m['memory']:,.0f} |"
            )
        for side in SIDES[asked.device][:-1]:
            ratios = {key: middle[side][key] / middle["theirs"][key] for key in middle[side]}
            print(
                f"| {name} | {side} / theirs | {ratios['speed']:.2f} | {ratios['per_processor_second']:.2f} | |"
                f" {ratios['memory']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
