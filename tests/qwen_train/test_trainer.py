"""The training step and loop against transformers, against float64, and against themselves after a stop."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.trainer import Check, NextToken, Optimiser, Trainer, Update, next_token_loss
from qwen_train.trainer.logs import read_log
from qwen_train.trainer.loss import _CELLS as parts
from tests.qwen_train.conftest import SHAPE, micro, rows, small_decoder

STEPS = Optimiser(learning_rate=3e-3, warmup_steps=20)


def trainer(folder, *, steps=12, every=100, dropout=0.0, identity=None, **changes) -> Trainer:
    update = Update(NextToken(small_decoder(dropout=dropout)), STEPS, World())
    identity = identity or {"recipe": {"steps": steps}}
    told = {"identity": identity, "changeable": {"optimiser": {"learning_rate": 3e-3}}, "smaller": "read less"}
    arguments = {"steps": steps, "seed": 3, "checkpoint_every": every} | told | changes
    return Trainer(update, lambda step: [micro(rows(step)[:4]), micro(rows(step)[4:])], folder, **arguments)


def test_200_steps_equal_transformers_with_the_same_optimiser():
    ours = small_decoder()
    wanted = {name: SHAPE[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    theirs = Qwen2ForCausalLM(
        Qwen2Config(**wanted, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False)
    ).train()
    theirs.load_state_dict(ours.state_dict())
    decayed, others = ([p for p in theirs.parameters() if (p.ndim > 1) == big] for big in (True, False))
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-8
    )
    update = Update(NextToken(ours), STEPS, World())
    for step in range(200):
        tokens, rate = rows(step), STEPS.rate(step, 200)
        for group in adamw.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(theirs(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        outcome = update.step([micro(tokens[:3]), micro(tokens[3:])], rate)
        assert outcome.loss == pytest.approx(float(loss.detach()), abs=1e-4), step
    assert outcome.loss < 1.0  # it learnt something, so that equal curves mean something


def test_gradients_are_those_of_float64():
    model = small_decoder()
    exact = copy.deepcopy(model).double()
    tokens = rows(0)
    NextToken(model)(tokens[:, :-1], tokens[:, 1:]).backward()
    # rotary positions and norms are float32 by the report's word, so the reference is near, not exact
    F.cross_entropy(exact(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()
    for (name, parameter), reference in zip(model.named_parameters(), exact.parameters(), strict=True):
        scale = reference.grad.abs().max()
        assert (parameter.grad - reference.grad).abs().max() < 2e-5 * scale + 1e-6, name


@pytest.mark.parametrize(("rows_", "cells"), [(5, 1 << 21), (1030, 1 << 21), (1030, 3000)])
def test_the_chunked_loss_is_torchs(rows_, cells, monkeypatch):
    monkeypatch.setitem(parts, "cpu", cells)
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows_, 24, dtype=torch.float32), torch.randn(300, 24)
    targets = torch.randint(0, 300, (rows_,))
    targets[::3] = -100
    results = []
    for ours in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            loss = next_token_loss(h, w, targets) * 0.5
        else:
            loss = F.cross_entropy(h @ w.T, targets, reduction="sum") * 0.5
        loss.backward()
        results.append((loss.detach(), h.grad, w.grad))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-4)


def test_a_step_is_the_same_however_it_is_cut():
    tokens = rows(0)
    targets = tokens[:, 1:].clone()
    targets[:3, 2:] = -100  # parts of very unequal count: the bug of dividing by each part's own would show
    norms = []
    for cut in (8, 4, 1):
        update = Update(NextToken(small_decoder()), STEPS, World())
        micros = []
        for start in range(0, 8, cut):
            part = micro(tokens[start : start + cut])
            wanted = targets[start : start + cut]
            micros.append(type(part)({**part.inputs, "targets": wanted}, int((wanted != -100).sum()), part.tokens))
        outcome = update.step(micros, 1e-3)
        norms.append((outcome.loss, outcome.grad_norm, outcome.count))
    for other in norms[1:]:
        assert other == pytest.approx(norms[0], rel=1e-5)


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_stopped_and_gone_on_with_equals_never_stopped_bit_for_bit(tmp_path, stop):
    whole = trainer(tmp_path / "whole", dropout=0.1)
    whole.fit()
    first = trainer(tmp_path / "parts", dropout=0.1)
    first.batches, taken = dying(first.batches, stop), []
    with pytest.raises(Killed):
        first.fit()
    first.save()
    first.checkpoints.wait()
    second = trainer(tmp_path / "parts", dropout=0.1)
    assert second.step == stop
    second.fit()
    for name, tensor in whole.update.tensors():
        taken.append(name)
        assert torch.equal(tensor, dict(second.update.tensors())[name]), name
    assert any(name.startswith("optimiser.") for name in taken)
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 12


@pytest.mark.parametrize("stop", [4, 12])
def test_a_check_that_was_cut_off_is_made_after_all(tmp_path, stop):
    def run(name: str, *, killed: int | None = None) -> None:
        def measure(step: int) -> dict[str, float]:
            if step == killed:
                its.checkpoints.wait()
                raise Killed
            return {"value": step}

        its = trainer(tmp_path / name, every=4, checks=[Check("first", 4, lambda step: {}), Check("held", 2, measure)])
        its.fit()

    run("whole")
    with pytest.raises(Killed):
        run("parts", killed=stop)
    for _ in range(2):  # also where all is done
        run("parts")
        logs = [
            [(row["step"], row["kind"], row.get("value")) for row in read_log(tmp_path / n)] for n in ("whole", "parts")
        ]
        assert logs[0] == logs[1] and (stop, "held", stop) in logs[0]


class Killed(Exception):
    pass


def dying(batches, at):
    def wrapped(step):
        if step == at:
            raise Killed
        return batches(step)

    return wrapped


def test_another_recipe_is_refused_by_the_field_that_differs(tmp_path):
    trainer(tmp_path, steps=2).fit()
    with pytest.raises(TrainError, match=r"recipe\.steps \(2 there, 3 now\)"):
        trainer(tmp_path, steps=3)


def test_old_checkpoints_go_by_policy(tmp_path):
    run = trainer(tmp_path, steps=12, every=2, keep=2, keep_every=4)
    run.fit()
    assert run.checkpoints.steps() == [4, 8, 10, 12]
