"""Run by torchrun: the trainer of `test_two_ranks`, into folders; it stops at a step as a signal makes it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from qwen_train.parallel import World, join_world
from qwen_train.recipe import Training
from qwen_train.trainer import Optimiser, Stopped, Trainer, Update
from tests.qwen_train.conftest import SHAPE, micro, rows

STEPS = 12


def trainer(folder: Path, world: World) -> Trainer:
    from qwen_model import ModelConfig
    from qwen_train.model import new_module

    module = new_module(
        ModelConfig(**SHAPE), Training(tokens=1, batch=8, micro_batch=4, context=16, dtype="float32"), world
    )

    def batches(step: int):
        own = 8 // world.size
        mine = rows(step)[world.rank * own : (world.rank + 1) * own]
        return [micro(part) for part in mine.split(2)]

    update = Update(module, Optimiser(learning_rate=3e-3, warmup_steps=4), world)
    return Trainer(
        update, batches, folder, steps=STEPS, seed=1, identity={}, changeable={}, smaller="", checkpoint_every=100
    )


def stopped(made: Trainer, after: int) -> None:
    """Train, with a SIGTERM to the first process in the step after so many."""
    whole = made.batches

    def batches(step: int):
        if step == after - 1 and made.world.first:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(step)

    made.batches = batches
    with pytest.raises(Stopped, match="SIGTERM"):
        made.fit()


if __name__ == "__main__":
    torch.set_num_threads(1)
    begun, gone_on_with = map(Path, sys.argv[1:])
    with join_world("cpu") as here:
        stopped(trainer(begun, here), 7)
        trainer(gone_on_with, here).fit()
