"""`qwen-train ppo`: the loop around `PPO`, with its log, samples, checkpoints and the watch for reward hacking."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.records import write_atomic
from qwen_model.chatml import chat_tokenizer, encode_prompt
from qwen_model.checkpoint import find_checkpoint
from qwen_model.download import sha256_file
from qwen_model.tokenizer import Tokenizer
from qwen_train.alignment.conversations import BadRow, RowError, rows
from qwen_train.alignment.experience import Experience
from qwen_train.alignment.models import begin_with, compute, end_ids, tokenizer_of
from qwen_train.alignment.pairs import messages_of
from qwen_train.alignment.ppo import PPO, Scorer
from qwen_train.alignment.rollouts import Text, measure, sample
from qwen_train.alignment.scorers import file_of, is_function, scorer
from qwen_train.alignment.settings import PPORecipe
from qwen_train.alignment.stage import Say, deal, finished, keep_bad, leave, of_run
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.trainer import Check, Outcome, Trainer

SAMPLES = "samples.jsonl"
SHOWN = 4
"""Responses of each step that are kept in samples.jsonl."""


def run_ppo(recipe: PPORecipe, folder: Path, world: World, say: Say) -> Path:
    """Train, and export the policy to `folder`/model; the same call goes on after any stop."""
    by_model = not is_function(recipe.reward)
    judged_by = find_checkpoint(recipe.reward).fingerprint if by_model else sha256_file(file_of(recipe.reward))
    exported, run = folder / "model", of_run(recipe, reward=judged_by)
    if finished(exported, run):
        say(f"{exported}: trained already by this recipe")
        return exported
    deal(recipe, world)
    settings, length = recipe.ppo, recipe.length
    policy, reference = begin_with(recipe.model), begin_with(recipe.model)
    value = begin_with(recipe.reward if by_model else recipe.model, scalar=True, seed=recipe.seed)
    tokenizer = tokenizer_of(policy)
    tokenizer.eos_ids = end_ids(tokenizer)
    queries = read_queries("queries", recipe, tokenizer, folder, world, say)
    judge = {
        name: scorer(named, recipe.model, length=length, dtype=recipe.dtype, world=world)
        for name, named in (("reward", recipe.reward), ("gold", recipe.gold))
        if named is not None
    }
    for model in (policy, reference, value):
        compute(model, recipe.dtype)
        model.to(world.device)
    say(plan_of(policy, world))
    ppo = PPO(
        settings,
        policy=policy,
        value=value,
        reference=reference,
        score=judge["reward"],
        tokenizer=tokenizer,
        queries=queries,
        pretraining=pretraining_rows(recipe, tokenizer) if recipe.pretraining and settings.ptx else None,
        length=length,
        seed=recipe.seed,
        dtype=recipe.dtype,
        world=world,
    )
    checks = []
    if recipe.held_out:
        asked = read_queries("held_out", recipe, tokenizer, folder, world, say)
        watched = Watched(ppo, asked, judge, folder, say)
        checks.append(Check("held out", recipe.watch_every, watched))
    trainer = PPOTrainer(
        ppo,
        folder,
        steps=settings.steps,
        checks=checks,
        **run,
    )
    if recipe.held_out and not trainer.step:
        watched.begin()
    trainer.fit()
    leave(trainer, policy, exported, run)
    return exported


class PPOTrainer(Trainer):
    """The training loop with PPO's step in the place of one optimiser's."""

    def __init__(self, ppo: PPO, folder: Path, **settings: Any) -> None:
        self.ppo = ppo
        super().__init__(ppo, lambda step: (), folder, **settings)  # type: ignore[arg-type]
        if self.world.first:
            _keep_steps(folder / SAMPLES, self.step)

    def _take(self) -> Outcome:
        torch.manual_seed(hash((self.seed, self.step, self.world.rank)))
        try:
            self.told, experience = self.ppo.step(self.step)
        except RuntimeError as error:
            self._explain(error)
            raise
        for update in (self.ppo.policy, self.ppo.value):
            if update.in_a_row >= update.guard.patience:
                self.checkpoints.wait()  # what is being written is from before too
                raise TrainError(
                    f"{update.in_a_row} updates in a row would have broken a model; the checkpoints are from before:"
                    " lower its learning_rate"
                )
        if self.world.first:
            self._keep_samples(experience)
        self.step += 1
        tokens = sum(len(made.old) for made in experience)
        self.tokens += tokens
        return Outcome(self.told.get("policy_loss", 0.0), self.told.get("policy_grad_norm", 0.0), 1, tokens, None)

    def _tell(self, log: Any, meter: Any, outcome: Outcome, seconds: float) -> None:
        told = self.told
        values = told | {"tokens": self.tokens, "responses_per_second": self._responses / seconds}
        if log is not None:
            log.write(self.step, "train", values)
        phase = "value only, " if told["value_only"] else ""
        meter.show(
            self.step,
            f"{phase}reward {told['reward']:.3f}, KL {told['kl_per_response']:.2f} nats, length {told['length']:.0f},"
            f" {values['responses_per_second']:.1f} responses/s",
        )

    @property
    def _responses(self) -> int:
        return self.ppo.settings.queries * self.ppo.settings.responses

    def _keep_samples(self, experience: Sequence[Experience]) -> None:
        """A few responses of each step, with their scores."""
        with (self.folder / SAMPLES).open("a", encoding="utf-8") as file:
            for made in experience[:SHOWN]:
                row = {
                    "step": self.step,
                    "query": self.ppo.tokenizer.decode(made.text.query),
                    "answer": made.text.answer,
                    "ended": made.text.ended,
                    "reward": made.raw,
                    "kl": float(made.kl.sum()),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _keep_steps(path: Path, steps: int) -> None:
    """Drop the samples of a run that went further than its checkpoint; they are written again."""
    # not splitlines: it breaks at characters that JSON allows within a text; behind the last line's end a kill cut off
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] < steps))


class Watched:
    """Answers to held-out queries, judged by the reward and by the gold: where the first rises and the second falls,
    the policy games its reward."""

    def __init__(
        self, ppo: PPO, queries: Sequence[Sequence[int]], judges: Mapping[str, Scorer], folder: Path, say: Say
    ) -> None:
        self.ppo, self.queries, self.judges, self.say = ppo, queries, judges, say
        self.first = folder / "held-out-first.json"

    def __call__(self, step: int = 0) -> dict[str, float]:
        texts, means = self._judged()
        facts = means | self._drift(texts)
        before = json.loads(self.first.read_text(encoding="utf-8"))
        if "gold" in means and means["reward"] > before["reward"] and means["gold"] < before["gold"]:
            self.say(
                f"reward hacking? since the beginning the reward rose from {before['reward']:.3f} to"
                f" {means['reward']:.3f} and the gold fell from {before['gold']:.3f} to {means['gold']:.3f}"
            )
        return facts

    def begin(self) -> None:
        """What the policy is worth before the first step."""
        _, means = self._judged()
        self.say("held out, before: " + ", ".join(f"{name} {mean:.4g}" for name, mean in means.items()))
        self.first.write_text(json.dumps(means), encoding="utf-8")

    def _judged(self) -> tuple[list[Text], dict[str, float]]:
        ppo, s = self.ppo, self.ppo.settings
        texts = sample(
            ppo.writer.follow(), ppo.tokenizer, self.queries, max_tokens=s.max_tokens, top_p=s.top_p, seed=ppo.seed
        )
        scores = {name: [float(one) for one in judge(texts)] for name, judge in self.judges.items()}
        return texts, {name: sum(found) / len(found) for name, found in scores.items()}

    def _drift(self, texts: Sequence[Text]) -> dict[str, float]:
        """KL to the reference and length of the held-out answers."""
        models = (self.ppo.writer.model, self.ppo.reference)
        ours, theirs = (measure(model, texts, length=self.ppo.length) for model in models)
        kl = [float((own.logprobs - other.logprobs).sum()) for own, other in zip(ours, theirs, strict=True)]
        lengths = [len(text.response) for text in texts]
        return {"kl_per_response": sum(kl) / len(kl), "length": sum(lengths) / len(lengths)}


def read_queries(
    field: str, recipe: PPORecipe, tokenizer: Tokenizer, folder: Path, world: World, say: Say
) -> list[list[int]]:
    """Token ids that ask for an answer, of rows with `prompt` or with `messages` that end with the user's turn, in the
    files of one of the recipe's fields.

    Those that leave no room for an answer are left out, and counted. Raises TrainError where none is left.
    """
    chat, found, bad, long = chat_tokenizer(tokenizer), [], [], 0
    length = recipe.length - recipe.ppo.max_tokens
    for path in getattr(recipe, field):
        for where, row in rows(Path(path)):
            try:
                ids = encode_prompt(chat, messages_of(_row(row)))
            except RowError as error:
                bad.append(BadRow(where, str(error), json.dumps(row, ensure_ascii=False)))
                continue
            if len(ids) > length:
                long += 1
            else:
                found.append(ids)
    keep_bad(bad, field, folder, world, say)
    if not found:
        raise TrainError(f"{field}: none of {len(bad) + long} rows asks for an answer in {length} tokens; see docs")
    say(f"{len(found)} queries; {long} longer than {length} tokens left out")
    return found


def _row(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row["fields"] if isinstance(row.get("fields"), Mapping) else row
    raise RowError("not a JSON object")


def pretraining_rows(recipe: PPORecipe, tokenizer: Tokenizer) -> Callable[[int], Tensor]:
    """Rows of pretraining text: a function of the step. For every four responses of a minibatch there is one row of 256
    tokens; all minibatches and epochs of a step read the same ones."""
    chat, ids = chat_tokenizer(tokenizer), []
    for path in recipe.pretraining:
        for where, row in rows(Path(path)):
            if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
                raise TrainError(f"{where}: no field 'text'; pretraining text is a JSON object with `text` per line")
            ids += [*chat.encode(row["text"]), tokenizer.eos_ids[-1]]  # letters: text forges no control token
    width = min(256, recipe.length)
    stream = torch.tensor(ids[: len(ids) // (width + 1) * (width + 1)]).view(-1, width + 1)
    if not len(stream):
        raise TrainError(f"pretraining: fewer than {width + 1} tokens; give more text")
    count = max(1, recipe.ppo.queries * recipe.ppo.responses // recipe.ppo.minibatches // 4)

    def of_step(step: int) -> Tensor:
        return stream[torch.arange(step * count, (step + 1) * count) % len(stream)]

    return of_step


def plan_of(policy: Any, world: World) -> str:
    """What the four models will take, before the first step."""
    weights = sum(parameter.numel() for parameter in policy.parameters())
    sharded, whole = 2 * 16 * weights / world.size, (2 if world.size == 1 else 4) * 4 * weights
    return (
        f"four models of {weights / 1e6:,.1f} M parameters: {(sharded + whole) / 1e6:,.0f} MB per process for weights,"
        " gradients and moments (activations and keys come on top)"
    )
