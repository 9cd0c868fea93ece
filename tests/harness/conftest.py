"""A sweep of four cells by four lengths on a tiny model, for all tests of `harness ablate`."""

from __future__ import annotations

import random

import pytest

from tests.conftest import make_checkpoint
from tests.harness.sweeps import LENGTHS, TABLE_3, TRAINED, ablate


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """Four texts of words, one of them too short."""
    folder, rng = tmp_path_factory.mktemp("documents"), random.Random(0)
    words = ["".join(rng.choices("etaoinshr", k=5)) for _ in range(200)]
    for name, count in (("one", 400), ("two", 420), ("three", 440), ("short", 20)):
        (folder / f"{name}.txt").write_text(" ".join(rng.choices(words, k=count)))
    return folder


@pytest.fixture(scope="session")
def narrow(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("narrow"), max_position_embeddings=TRAINED)


@pytest.fixture(scope="session")
def sweep(narrow, documents, tmp_path_factory):
    """Table 3's rows on a tiny model."""
    out = tmp_path_factory.mktemp("sweep") / "table3"
    done = ablate(
        "--task", "long-ppl", "--model", narrow, "--rows", TABLE_3, "--lengths", ",".join(map(str, LENGTHS)),
        "--documents", documents, "--out", out,
    )  # fmt: skip
    return done, out
