"""FSDP2 on two gloo processes equals one process, and a checkpoint goes from two to one and from one to two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwen_train.parallel import World
from qwen_train.trainer.logs import read_log
from tests.processes import torchrun
from tests.qwen_train.two_ranks import stopped, trainer


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder)]


@pytest.mark.slow
def test_two_ranks_equal_one_also_after_a_stop_on_either(tmp_path):
    alone, from_two, from_one = (tmp_path / name for name in ("alone", "from-two", "from-one"))
    reference = trainer(alone, World())
    reference.fit()
    stopped(trainer(from_one, World()), 5)
    done = torchrun(2, "tests.qwen_train.two_ranks", from_two, from_one)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(losses(from_two)) == 7
    goes_on = trainer(from_two, World())
    assert goes_on.step == 7
    goes_on.fit()
    ends = trainer(from_one, World())
    for folder, made in ((from_two, goes_on), (from_one, ends)):
        assert losses(folder) == pytest.approx(losses(alone), abs=1e-5)
        for name, weight in made.weights().items():
            torch.testing.assert_close(weight, reference.weights()[name], rtol=1e-4, atol=1e-5)
