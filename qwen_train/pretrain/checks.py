"""What is measured while a model trains: loss on the documents held out, and tasks of the harness."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from qwen_train.model import export
from qwen_train.parallel import World
from qwen_train.recipe import HarnessTasks, Recipe
from qwen_train.tokens.order import as_micro
from qwen_train.tokens.store import TOKENIZER, VALIDATION, TokenFiles
from qwen_train.trainer import IGNORED, Check, NextToken


def checks(recipe: Recipe, files: TokenFiles, module: NextToken, world: World, out: Path) -> list[Check]:
    """The recipe's checks, in the order in which they run."""
    found = []
    if VALIDATION in files.manifest["sets"] and files.manifest["sets"][VALIDATION]["tokens"] > recipe.training.context:
        found.append(Check("validation", recipe.validation.every, lambda _: held_out(recipe, files, module, world)))
    if recipe.harness is not None:
        wanted, dtype = recipe.harness, recipe.training.dtype
        measure = _harness(wanted, module, files.folder / TOKENIZER, dtype, world, out / "harness")
        found.append(Check("harness", wanted.every, measure))
    return found


def held_out(recipe: Recipe, files: TokenFiles, module: NextToken, world: World) -> dict[str, float]:
    """Mean loss (nats) over sequences spread evenly over the held-out documents, shared among the processes."""
    stream, training = files.open(VALIDATION), recipe.training
    there = (len(stream) - 1) // training.context
    count = min(recipe.validation.sequences, there)
    mine = range(world.rank, count, world.size)
    total = seen = 0.0
    # every process goes through the model as often as any: sharded weights are gathered together
    for begin in range(0, -(-count // world.size), training.micro_batch):
        part = mine[begin : begin + training.micro_batch]
        chosen = [(stream, index * there // count * training.context) for index in part]
        empty = not chosen
        micro = as_micro(
            chosen or [(stream, 0)], training.context, documents=not training.across_documents, device=world.device
        )
        if empty:
            micro.inputs["targets"].fill_(IGNORED)
        # compiled blocks are for training: without gradients they would meet the C++ kernels
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            total += float(module(**micro.inputs))
        seen += 0 if empty else micro.count
    total, seen = world.total(total, seen)
    return {"loss": total / seen}


def _harness(
    wanted: HarnessTasks, module: NextToken, tokenizer: Path, dtype: str, world: World, folder: Path
) -> Callable[[int], Mapping[str, float]]:
    def measure(step: int) -> Mapping[str, float]:
        from harness import evaluate

        place = folder / f"step-{step:08}"
        model = place / "model"
        export(module.model, tokenizer, model, dtype, world)
        values: dict[str, float] = {}
        if world.first:
            run = evaluate(
                wanted.tasks,
                str(model),
                limit=wanted.limit,
                data_dir=wanted.data_dir,
                documents=wanted.documents,
                lengths=wanted.lengths,
                dtype=dtype,
                out=place / "run",
            )
            for task, results in run.results.items():
                values |= {f"{task}/{name}": metric.value for name, metric in results.metrics.items()}
            shutil.rmtree(model)
        world.barrier()
        return values

    return measure
