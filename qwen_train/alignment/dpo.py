"""Direct preference optimisation (Rafailov et al., 2023): a baseline without reward model, on the same parts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from qwen_model.chatml import chat_tokenizer
from qwen_model.decoder import Decoder
from qwen_model.layout import Documents
from qwen_train.alignment.losses import dpo_loss
from qwen_train.alignment.models import Copy, begin_with, blocks_of, compute, tokenizer_of
from qwen_train.alignment.nucleus import logprobs_within
from qwen_train.alignment.order import places_of, steps_of
from qwen_train.alignment.packing import Row
from qwen_train.alignment.reward import decided, shares, side_by_side
from qwen_train.alignment.settings import DPO
from qwen_train.alignment.stage import Say, deal, finished, leave, of_run
from qwen_train.parallel import World, parallelize
from qwen_train.trainer import Check, Micro, Trainer, Update


class DPOLoss(nn.Module):
    """The summed loss of a packed row: chosen texts and rejected ones by turns."""

    def __init__(self, model: Decoder, reference: Decoder, beta: float) -> None:
        super().__init__()
        self.model, self.beta = model, beta
        self._reference = [reference.eval().requires_grad_(False)]  # in a list: it is no part of what is trained

    def forward(self, row: Row) -> Tensor:
        ours = answer_logprobs(self.model, row)
        with torch.no_grad():
            theirs = answer_logprobs(self._reference[0], row)
        return dpo_loss(ours[::2], ours[1::2], theirs[::2], theirs[1::2], self.beta) * (len(ours) // 2)


def answer_logprobs(model: Decoder, row: Row) -> Tensor:
    """Log-probability (texts,) in nats of each text's judged tokens together."""
    logits = model(row.ids, layout=Documents(row.segments), keep=row.judged)[0]
    found = logprobs_within(logits, row.targets, None)
    return torch.zeros(len(row.spans), device=found.device).index_add(0, row.segments[0, row.judged], found)


def run_dpo(recipe: DPO, folder: Path, world: World, say: Say) -> Path:
    """Train, and export the policy to `folder`/model; goes on after any stop."""
    exported, run = folder / "model", of_run(recipe)
    if finished(exported, run):
        say(f"{exported}: trained already by this recipe")
        return exported
    deal(recipe, world)
    model, reference = (begin_with(recipe.model).to(world.device) for _ in range(2))
    tokenizer = chat_tokenizer(tokenizer_of(model))
    learnt = decided("data", tokenizer, recipe, folder, world, say)
    held_out = decided("validation", tokenizer, recipe, folder, world, say) if recipe.validation else []
    for one in (model, reference):
        compute(one, recipe.dtype)
    asked, module = Copy(model, world), DPOLoss(model, reference, recipe.beta)
    parallelize(module, blocks_of(model), world, recipe.dtype, compile=False)

    def batches(step: int) -> list[Micro]:
        places = places_of(step, batch=recipe.batch, size=len(learnt), seed=recipe.seed)
        parts = shares([learnt[place] for place in places], recipe.length, world)
        rows = [(side_by_side(part, world.device), len(part)) for part in parts]
        return [Micro({"row": row}, count, row.ids.numel()) for row, count in rows]

    @torch.no_grad()
    def validate(step: int = 0) -> dict[str, float]:
        gaps, now = [], asked.follow()
        for part in shares(held_out, recipe.length, World(device=world.device)):
            row = side_by_side(part, world.device)
            gap = answer_logprobs(now, row) - answer_logprobs(reference, row)
            gaps += (recipe.beta * (gap[::2] - gap[1::2])).tolist()
        return {"accuracy": sum(gap > 0 for gap in gaps) / len(gaps), "margin": sum(gaps) / len(gaps)}

    trainer = Trainer(
        Update(module, recipe.optimiser, world),
        batches,
        folder,
        steps=steps_of(recipe.epochs, batch=recipe.batch, size=len(learnt)),
        checks=[Check("validation", recipe.validate_every, validate)] if held_out else [],
        **run,
    )
    trainer.fit()
    leave(trainer, model, exported, run)
    return exported
