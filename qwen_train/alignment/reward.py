"""Reward models: from a base model by preference-model pretraining, then fine-tuning (report, section 3.2.1).

Both stages are the same training on other pairs: the second one begins with what the first one left. A text's reward is
the scalar head's output at its last token, `<|im_end|>`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from qwen_model.chatml import ChatTokenizer, Example, chat_tokenizer
from qwen_model.decoder import Decoder
from qwen_model.layout import Documents
from qwen_train.alignment.calibration import write_calibration
from qwen_train.alignment.losses import pairwise_loss
from qwen_train.alignment.models import Copy, begin_with, blocks_of, compute, tokenizer_of
from qwen_train.alignment.order import places_of, steps_of
from qwen_train.alignment.packing import Row, pack
from qwen_train.alignment.pairs import EncodedPair, encode_pairs, read_pairs
from qwen_train.alignment.rollouts import rewards_of
from qwen_train.alignment.settings import DPO, Reward
from qwen_train.alignment.stage import Say, deal, finished, keep_bad, leave, of_run
from qwen_train.errors import TrainError
from qwen_train.parallel import World, parallelize
from qwen_train.trainer import Check, Micro, Trainer, Update


class PairLoss(nn.Module):
    """The summed pairwise loss of a packed row: chosen texts and rejected ones by turns."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, row: Row, margin: Tensor, tie: Tensor) -> Tensor:
        ends = torch.tensor([end - 1 for _, end in row.spans], device=row.ids.device)
        rewards = self.model(row.ids, layout=Documents(row.segments), keep=ends)[0, :, 0].float()
        return pairwise_loss(rewards[::2], rewards[1::2], margin, tie) * len(margin)


def run_reward(recipe: Reward, folder: Path, world: World, say: Say) -> Path:
    """Train, and export the reward model to `folder`/model with its calibration; goes on after any stop."""
    exported, run = folder / "model", of_run(recipe)
    if finished(exported, run):
        say(f"{exported}: trained already by this recipe")
        return exported
    deal(recipe, world)
    model = begin_with(recipe.model, scalar=True, dropout=recipe.dropout, seed=recipe.seed)
    tokenizer = chat_tokenizer(tokenizer_of(model))
    learnt = read_encoded("data", tokenizer, recipe, folder, world, say)
    held_out = decided("validation", tokenizer, recipe, folder, world, say) if recipe.validation else []
    compute(model, recipe.dtype)
    model.to(world.device)
    asked, module = Copy(model, world), PairLoss(model)
    parallelize(module, blocks_of(model), world, recipe.dtype, compile=False)

    def batches(step: int) -> list[Micro]:
        places = places_of(step, batch=recipe.batch, size=len(learnt), seed=recipe.seed)
        pairs = [learnt[place] for place in places]
        return [pair_micro(part, recipe.margins, world) for part in shares(pairs, recipe.length, world)]

    def validate(step: int = 0) -> dict[str, float]:
        gaps = gaps_of(asked.follow(), held_out, recipe.length)
        return {"accuracy": float((gaps > 0).float().mean()), "gap": float(gaps.mean())}

    trainer = Trainer(
        Update(module, recipe.optimiser, world),
        batches,
        folder,
        steps=steps_of(recipe.epochs, batch=recipe.batch, size=len(learnt)),
        checks=[Check("validation", recipe.validate_every, validate)] if held_out else [],
        **run,
    )
    trainer.fit()
    if held_out:
        gaps = gaps_of(asked.follow(), held_out, recipe.length)
        if world.first:
            (folder / "gaps.json").write_text(json.dumps(gaps.tolist()), encoding="utf-8")
            write_calibration(gaps.tolist(), folder)
    leave(trainer, model, exported, run)
    return exported


@torch.no_grad()
def gaps_of(model: Decoder, pairs: Sequence[EncodedPair], length: int) -> Tensor:
    """Reward of the chosen answer less that of the rejected one (pairs,)."""
    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    rewards = rewards_of(model.eval(), texts, length=length)
    return (rewards[::2] - rewards[1::2]).cpu()


def read_encoded(
    field: str, tokenizer: ChatTokenizer, recipe: Reward | DPO, folder: Path, world: World, say: Say
) -> list[EncodedPair]:
    """The pairs of the files of one of the recipe's fields; bad ones are named, too long ones counted."""
    found, bad = [], []
    for path in getattr(recipe, field):
        good, wrong = read_pairs(Path(path))
        found += good
        bad += wrong
    keep_bad(bad, field, folder, world, say)
    encoded, dropped = encode_pairs(found, tokenizer, recipe.length)
    ties = sum(pair.tie for pair in encoded)
    say(f"{len(encoded)} pairs, {ties} of them ties; {len(dropped)} longer than {recipe.length} tokens left out")
    return encoded


def decided(
    field: str, tokenizer: ChatTokenizer, recipe: Reward | DPO, folder: Path, world: World, say: Say
) -> list[EncodedPair]:
    """The pairs of `read_encoded` that are no ties. Raises TrainError where there is none."""
    found = [pair for pair in read_encoded(field, tokenizer, recipe, folder, world, say) if not pair.tie]
    if not found:
        raise TrainError(f"{field}: all pairs are ties, of which no answer is the better one; give others")
    return found


def shares(pairs: Sequence[EncodedPair], length: int, world: World) -> list[list[EncodedPair]]:
    """This process's pairs of a step, in parts of at most 2 x `length` tokens, as many as every process has."""
    parts: list[list[EncodedPair]] = []
    for pair in sorted(pairs, key=lambda pair: -pair.size):
        if not parts or sum(member.size for member in parts[-1]) + pair.size > 2 * length:
            parts.append([])
        parts[-1].append(pair)
    while len(parts) % world.size:
        longest = max(range(len(parts)), key=lambda place: len(parts[place]))
        if len(parts[longest]) == 1:
            raise ValueError(f"{len(pairs)} pairs cannot be dealt to {world.size} processes")
        part = parts.pop(longest)
        parts += [part[::2], part[1::2]]
    return parts[world.rank :: world.size]


def pair_micro(pairs: Sequence[EncodedPair], margins: bool, world: World) -> Micro:
    """A packed row for `PairLoss`."""
    row = side_by_side(pairs, world.device)
    margin = torch.tensor([pair.margin if margins else 0.0 for pair in pairs], device=world.device)
    tie = torch.tensor([pair.tie for pair in pairs], device=world.device)
    return Micro({"row": row, "margin": margin, "tie": tie}, len(pairs), row.ids.numel())


def side_by_side(pairs: Sequence[EncodedPair], device: torch.device) -> Row:
    """One row: each pair's chosen text, then its rejected one. Their answers' tokens are judged."""
    texts = [(text, pair.start) for pair in pairs for text in (pair.chosen, pair.rejected)]
    examples = [Example(text, [place >= start for place in range(len(text))]) for text, start in texts]
    (row,) = pack(examples, sum(len(text) for text, _ in texts), device, in_order=True)
    return row
