"""lm-evaluation-harness by itself: its task manager, its evaluator, its `hf` model; only the rows are handed to it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import datasets
import lm_eval
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

FOLDERS = {"boolq": "super_glue", "lambada_openai": "lambada", "arc_challenge": "arc", "arc_easy": "arc"}


def hf_model(folder: Path, **options) -> HFLM:
    """The checkpoint as lm-eval loads it, in float32 on the processor, with the tokenizer that the folder holds."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    end = "<|im_end|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token=end, pad_token=end)
    return HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=1, **options)


def evaluate(lm: LM, task: str, splits: dict[str, list[dict]], samples: list[int], **options) -> dict:
    """Results of these items of a task, and what was asked and answered for each: {"metrics", "items"}."""
    made = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
    folder = Path(lm_eval.__file__).parent / "tasks" / FOLDERS.get(task, task)
    with patch("lm_eval.api.task.datasets.load_dataset", lambda *_, **__: made):
        found = simple_evaluate(
            lm,
            tasks=[task],
            samples={task: samples},
            task_manager=TaskManager(include_defaults=False, include_path=str(folder)),
            bootstrap_iters=0,
            **options,
        )
    return {"metrics": found["results"][task], "items": found["samples"][task]}
