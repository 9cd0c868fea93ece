"""Supervised fine-tuning: a base model learns to answer (report, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from harness.records import write_atomic
from qwen_model.chatml import ChatTokenizer, Example, chat_tokenizer
from qwen_train.alignment.conversations import BadRow, Conversation, read_conversations
from qwen_train.alignment.lora import adapt, merge, save_adapters
from qwen_train.alignment.models import Copy, begin_with, blocks_of, compute, tokenizer_of
from qwen_train.alignment.order import places_of
from qwen_train.alignment.packing import Row, encode, pack, spread
from qwen_train.alignment.settings import SFT
from qwen_train.alignment.stage import Say, deal, finished, keep_bad, leave, of_run
from qwen_train.errors import TrainError
from qwen_train.parallel import World, parallelize
from qwen_train.trainer import Check, Micro, NextToken, Trainer, Update


def run_sft(recipe: SFT, folder: Path, world: World, say: Say) -> Path:
    """Train, and export the model that chats to `folder`/model; the same call goes on after any stop.

    Raises TrainError or ModelError, one line each, and Stopped after a signal.
    """
    exported, run = folder / "model", of_run(recipe)
    if finished(exported, run):
        say(f"{exported}: trained already by this recipe")
        return exported
    deal(recipe, world)
    model = begin_with(recipe.model, dropout=recipe.dropout)
    tokenizer = chat_tokenizer(tokenizer_of(model))
    learnt = read_encoded("data", tokenizer, recipe, folder, world, say)
    held_out = read_encoded("validation", tokenizer, recipe, folder, world, say) if recipe.validation else []
    if recipe.lora is not None:
        if world.size > 1:
            raise TrainError("lora: adapters are trained by one process; leave lora out, or torchrun")
        adapt(model, recipe.lora, recipe.seed)
    compute(model, recipe.dtype)
    model.to(world.device)
    asked = Copy(model, world)
    checks = []
    if held_out:
        rows = pack(held_out, recipe.length, world.device)

        def validate(step: int = 0) -> dict[str, float]:
            return {"loss": loss_of(asked.follow(), rows)}

        checks.append(Check("validation", recipe.validate_every, validate))
    module = NextToken(model)
    parallelize(module, blocks_of(model), world, recipe.dtype, compile=False)

    def batches(step: int) -> list[Micro]:
        places = places_of(step, batch=recipe.batch, size=len(learnt), seed=recipe.seed)
        batch = [learnt[place] for place in places]
        return [micro(row) for row in spread(pack(batch, recipe.length, world.device), batch, world)]

    trainer = Trainer(
        Update(module, recipe.optimiser, world),
        batches,
        folder,
        steps=recipe.steps,
        checks=checks,
        **run,
    )
    trainer.fit()
    if recipe.lora is not None:
        save_adapters(model, folder / "adapters", recipe.lora)
        merge(model)
    leave(trainer, model, exported, run)
    return exported


def micro(row: Row) -> Micro:
    """A packed row for `NextToken`."""
    inputs = {"input_ids": row.ids, "targets": row.next_tokens, "segments": row.segments}
    return Micro(inputs, len(row.targets), row.ids.numel())


@torch.no_grad()
def loss_of(model: Any, rows: Iterable[Row]) -> float:
    """Mean loss over all targets of packed rows, in nats; the model is in evaluation mode after."""
    module, total, count = NextToken(model.eval()), 0.0, 0
    for row in rows:
        total += float(module(**micro(row).inputs))
        count += len(row.targets)
    return total / count


def read_encoded(
    field: str, tokenizer: ChatTokenizer, recipe: SFT, folder: Path, world: World, say: Say
) -> list[Example]:
    """The conversations of the files of one of the recipe's fields; bad and too long ones are named."""
    found: list[Conversation] = []
    bad: list[BadRow] = []
    for path in getattr(recipe, field):
        good, wrong = read_conversations(Path(path))
        found += good
        bad += wrong
    keep_bad(bad, field, folder, world, say)
    fitted = encode(found, tokenizer, recipe.mask, recipe.length, recipe.too_long)
    say(
        f"{len(fitted.examples)} conversations of {sum(len(e.ids) for e in fitted.examples):,} tokens; longer than"
        f" {recipe.length}: {fitted.cut} cut, {len(fitted.dropped)} left out"
    )
    if fitted.dropped and world.first:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"left-out-{field}.txt", "\n".join(fitted.dropped) + "\n")
    return fitted.examples
