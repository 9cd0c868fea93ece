"""FSDP2 on two gloo processes equals one process, and a checkpoint goes from two to one and from one to two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qwen_train.parallel import World
from qwen_train.trainer.logs import read_log
from tests.qwen_train.two_ranks import stopped, trainer

ROOT = Path(__file__).parents[2]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder)]


@pytest.mark.slow
def test_two_ranks_equal_one_also_after_a_stop_on_either(tmp_path):
    alone, from_two, from_one = (tmp_path / name for name in ("alone", "from-two", "from-one"))
    reference = trainer(alone, World())
    reference.fit()
    stopped(trainer(from_one, World()), 5)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "tests.qwen_train.two_ranks", str(from_two), str(from_one)),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
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
