"""What may go wrong while training: numbers that break a model, memory, disks, kills."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwen_model.chatml import Example
from qwen_train.alignment.packing import pack
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.trainer import Guard, Micro, NextToken, Optimiser, Trainer, Update
from qwen_train.trainer.logs import read_log
from tests.qwen_train.conftest import micro, rows, small_decoder
from tests.qwen_train.test_trainer import STEPS, trainer

ROOT = Path(__file__).parents[2]


def poisoned(update: Update, steps: set[int], factor: float) -> None:
    """Multiply the loss of those steps."""
    real, count = update.module.forward, iter(range(1000))

    def forward(**inputs):
        return real(**inputs) * (factor if next(count) // 2 in steps else 1.0)

    update.module.forward = forward


@pytest.mark.parametrize(("factor", "said"), [(float("nan"), "loss nan"), (1e4, "times its running mean")])
def test_a_bad_step_changes_nothing_and_is_counted(tmp_path, factor, said):
    run = trainer(tmp_path, steps=8, every=4)
    run.update.guard = Guard(settle=3)
    poisoned(run.update, {5}, factor)
    before = {}
    real = run._take

    def take():
        if run.step == 5:
            before.update({name: tensor.clone() for name, tensor in run.update.tensors()})
        outcome = real()
        if run.step == 6:
            assert all(torch.equal(before[name], tensor) for name, tensor in run.update.tensors())
        return outcome

    run._take = take
    run.fit()
    skipped = [(row["step"], row["skipped"]) for row in read_log(tmp_path) if "skipped" in row]
    assert [step for step, _ in skipped] == [6] and said in skipped[0][1]
    assert run.update.facts() == {"running_norm": run.update.running_norm, "taken": 7, "skipped": 1, "in_a_row": 0}


def test_many_bad_steps_in_a_row_stop_with_the_batch_in_a_file(tmp_path):
    run = trainer(tmp_path, steps=12, every=2)
    poisoned(run.update, set(range(4, 12)), float("inf"))
    with pytest.raises(TrainError, match=r"5 steps in a row .* lower optimiser.learning_rate") as error:
        run.fit()
    kept = load_file(tmp_path / "bad-batch-00000009-0.safetensors")
    assert str(tmp_path / "bad-batch-00000009-0.safetensors") in str(error.value)
    assert torch.equal(torch.cat((kept["0.input_ids"], kept["1.input_ids"])), rows(8)[:, :-1])
    assert run.checkpoints.steps()[-1] == 8  # the one that was being written too


def test_after_bad_steps_a_lower_rate_goes_on_and_is_logged(tmp_path, capsys):
    run = trainer(tmp_path, steps=12, every=2)
    poisoned(run.update, set(range(4, 12)), float("inf"))
    with pytest.raises(TrainError, match="5 steps in a row"):
        run.fit()
    trainer(tmp_path, steps=12, every=2, changeable={"optimiser": {"learning_rate": 1e-3}}).fit()
    told = "optimiser.learning_rate (0.003 there, 0.001 now)"
    rows = read_log(tmp_path)
    assert [(row["step"], row["what"]) for row in rows if row["kind"] == "changed"] == [(8, told)]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 13))
    assert f"going on from the checkpoint of step 8; changed: {told}" in capsys.readouterr().err


def test_checkpoints_from_before_rates_could_change_are_of_another_recipe(tmp_path):
    trainer(tmp_path, steps=2, every=2).fit()
    [path] = tmp_path.rglob("training.json")
    facts = json.loads(path.read_text())
    facts["identity"] |= facts.pop("changeable")
    path.write_text(json.dumps(facts))
    with pytest.raises(TrainError, match=r"begun with another recipe: optimiser"):
        trainer(tmp_path, steps=4)


@pytest.mark.parametrize("count", [1, 2])
def test_the_bad_batch_is_kept_of_any_input(tmp_path, count):
    """Of one row inputs and targets are views of the same numbers; a packed row holds its tensors itself."""
    run, tokens = trainer(tmp_path), rows(0)[:count]
    packed = pack([Example([1, 2, 3], [False, True, True])], 3)[0]
    kept = load_file(run._keep_batch([micro(tokens), Micro({"row": packed}, 2, 3)]))
    assert torch.equal(kept["0.input_ids"], tokens[:, :-1]) and torch.equal(kept["0.targets"], tokens[:, 1:])
    assert kept["1.row.ids"].tolist() == [[1, 2, 3]] and kept["1.row.targets"].tolist() == [2, 3]


def test_memory_that_runs_out_is_one_line_of_advice(tmp_path):
    run = trainer(tmp_path, steps=2)

    def forward(**inputs):
        return torch.empty(1 << 50)

    run.update.module.forward = forward
    with pytest.raises(TrainError, match=r"out of memory in step 1, 64 tokens at once: read less"):
        run.fit()


def test_a_disk_that_fills_leaves_the_last_checkpoint_whole(tmp_path):
    trainer(tmp_path, steps=12, every=4).fit()
    run = trainer(tmp_path, steps=12, every=4)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        run.checkpoints.save(99, dict(run.update.tensors()), {})
        with pytest.raises(TrainError, match=r"step-00000099.partial: .*free space.*step 12 is whole"):
            run.checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.checkpoints.steps() == [8, 12]
    assert not list((tmp_path / "checkpoints").glob("*.partial"))
    assert trainer(tmp_path, steps=12, every=4).step == 12


@pytest.mark.slow
def test_a_killed_run_goes_on_and_equals_an_unbroken_one(tmp_path):
    """Killed while it writes checkpoints, twice; once its log ends within a line."""
    whole = slow_run(tmp_path / "whole")
    assert whole.wait() == 0
    for kill in range(2):
        process = slow_run(tmp_path / "parts")
        wanted = 3 + 4 * kill
        while len(read_log(tmp_path / "parts")) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.wait()
        with (tmp_path / "parts" / "log.jsonl").open("a") as log:
            log.write('{"step": 99, "lo')
    assert slow_run(tmp_path / "parts").wait() == 0
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    assert not list((tmp_path / "parts" / "checkpoints").glob("*.partial"))


def slow_run(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.qwen_train.test_guards", str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    run = trainer(tmp_path, steps=5)

    def batches(step):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        raise AssertionError("went on")

    run.batches = batches
    with pytest.raises(KeyboardInterrupt):
        run.fit()


def test_a_warm_up_and_both_schedules():
    cosine = Optimiser(learning_rate=1.0, warmup_steps=10)
    assert [cosine.rate(step, 110) for step in (0, 9, 10, 60, 110)] == pytest.approx([0.1, 1.0, 1.0, 0.55, 0.1])
    constant = Optimiser(learning_rate=1.0, warmup_share=0.03, schedule="constant")
    assert [constant.rate(step, 100) for step in (0, 2, 3, 99)] == pytest.approx([1 / 3, 1, 1, 1])


def test_weight_decay_spares_norms_and_biases():
    update = Update(NextToken(small_decoder()), STEPS, World())
    names = {id(parameter): name for name, parameter in update.module.named_parameters()}
    spared = {names[id(p)] for group in update.adamw.param_groups if not group["weight_decay"] for p in group["params"]}
    assert spared == {name for name in names.values() if "norm" in name or name.endswith("bias")}
    assert {group["weight_decay"] for group in update.adamw.param_groups} == {0.0, 0.1}


if __name__ == "__main__":
    torch.set_num_threads(1)
    update = Update(NextToken(small_decoder(dropout=0.1)), STEPS, World())

    def batches(step: int):
        time.sleep(0.2)
        return [micro(rows(step))]

    told = {"identity": {}, "changeable": {}, "smaller": ""}
    Trainer(update, batches, Path(sys.argv[1]), steps=12, seed=3, checkpoint_every=1, **told).fit()
