"""Answers `engine_speed`'s requests by our engine or by lm-evaluation-harness's `hf` model, as JSON.

    python -m tests.bench.engine_peer ours|lm-eval MODEL REQUESTS.json ANSWERS.json [--dtype float32] [--batch 1]

The clock runs while requests are answered, after the model is loaded; the memory is the greatest of the whole process.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from qwen_model.checkpoint import find_checkpoint
from qwen_train.trainer.progress import peak_memory


def load(engine: str, model: str, dtype: str, batch: int, device: str = "cpu") -> Any:
    """An `lm_eval.api.model.LM`."""
    if engine == "ours":
        from harness.lmeval.model import LmEvalModel

        return LmEvalModel(model, dtype=dtype, device=device)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(find_checkpoint(model).folder), dtype=dtype, device=device, batch_size=batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=("ours", "lm-eval"))
    parser.add_argument("model")
    parser.add_argument("requests", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    from lm_eval.api.instance import Instance

    work = json.loads(options.requests.read_text(encoding="utf-8"))
    loaded = load(options.engine, options.model, options.dtype, options.batch)
    asked = [
        Instance(request_type=work["kind"], doc={}, arguments=tuple(arguments), idx=0)
        for arguments in work["arguments"]
    ]
    start = time.perf_counter()
    answers = getattr(loaded, work["kind"])(asked, disable_tqdm=True)
    seconds = time.perf_counter() - start
    peak = round(peak_memory(torch.device("cpu")) * 1e6)
    options.answers.write_text(json.dumps({"answers": answers, "seconds": seconds, "peak bytes": peak}))


if __name__ == "__main__":
    main()
