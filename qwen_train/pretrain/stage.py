"""`qwen-train pretrain`: a recipe and token files to a base model, or a base model to a specialised one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.records import write_atomic
from qwen_model.checkpoint import find_checkpoint
from qwen_train.errors import TrainError
from qwen_train.model import export, flops_per_token, measured_peak, new_module
from qwen_train.parallel import World
from qwen_train.pretrain.checks import checks
from qwen_train.recipe import Recipe
from qwen_train.tokens.order import Mixture, TokenBatches
from qwen_train.tokens.store import TOKENIZER, TokenFiles
from qwen_train.tokens.write import fingerprint
from qwen_train.trainer import Trainer, Update

MODEL, QWEN_MODEL, RUN = "model", "model-qwen", "run.json"


def pretrain(recipe: Recipe, files: TokenFiles, out: Path, world: World, start: Path | None = None) -> Path:
    """Train, or go on training, and export: `out`/model in transformers' layout, `out`/model-qwen in the first Qwen's.

    `start` is a checkpoint folder to continue from. Returns the model's folder. Raises TrainError, ModelError, Stopped.
    """
    t = recipe.training
    config = recipe.model_config_of(files.vocabulary)
    if start is not None:
        find_checkpoint(str(start))  # says what is missing in it
        if fingerprint(start) != files.manifest["tokenizer"]:
            raise TrainError(f"{files.folder}: of another tokenizer than {start}; make token files with its own")
    mixture = Mixture(files, t.context, t.seed, t.weights or None)
    batches = TokenBatches(
        mixture, world, batch=t.batch, micro_batch=t.micro_batch, across_documents=t.across_documents
    )
    module = new_module(config, t, world, start)
    identity: dict[str, Any] = {
        "recipe": recipe.identity,
        "data": {name: files.manifest[name] for name in ("documents", "tokenizer", "seed", "sets")},
        "start": None if start is None else str(start.resolve()),
    }
    peak = measured_peak(world, t.dtype)
    trainer = Trainer(
        Update(module, recipe.optimiser, world, recipe.guard),
        batches,
        out,
        steps=t.steps,
        seed=t.seed,
        identity=identity,
        changeable=recipe.changeable,
        smaller="halve training.micro_batch (the step stays the same), or set training.recompute: true",
        checkpoint_every=t.checkpoint_every,
        keep=t.keep,
        keep_every=t.keep_every,
        checks=checks(recipe, files, module, world, out),
        flops_per_token=flops_per_token(config, t.context),
        peak_flops=peak,
    )
    if world.first:
        parameters = sum(parameter.numel() for parameter in module.parameters())
        facts = {
            "recipe": recipe.model_dump(mode="json"),
            "parameters": parameters,
            "steps": t.steps,
            "peak_flops": peak,
            "processes": world.size,
        }
        write_atomic(out / RUN, json.dumps(identity | facts, indent=1))
    trainer.fit()
    export(module.model, files.folder / TOKENIZER, out / MODEL, t.dtype, world)
    if config.num_key_value_heads == config.num_attention_heads and not config.tie_word_embeddings:
        export(module.model, files.folder / TOKENIZER, out / QWEN_MODEL, t.dtype, world, "qwen")
    return out / MODEL
