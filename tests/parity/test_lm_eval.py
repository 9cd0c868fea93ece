"""MMLU by our engine and by lm-evaluation-harness's own `hf` model: same prompts, float32, item by item."""

from __future__ import annotations

import pytest

from harness import evaluate
from qwen_model.checkpoint import find_checkpoint
from qwen_model.download import DownloadError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2-135M-Instruct, 98 MB, from the cache or fetched."""
    try:
        return find_checkpoint("smollm2-135m-instruct")
    except DownloadError as error:
        pytest.skip(f"the model cannot be had here: {error}")


@pytest.mark.parametrize("backend", ["native", "hf"])
def test_letters_and_logprobs_on_two_subjects(smollm2, backend, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    subjects = ("astronomy", "anatomy")
    limit = 100 if backend == "native" else 10
    run = evaluate(
        ["mmlu"],
        "smollm2-135m-instruct",
        filter={"subject": subjects},
        limit=limit,
        backend=backend,
        out=tmp_path / "run",
    )
    records = list(run.records("mmlu"))
    assert len(records) == limit
    assert {record.group for record in records} == set(subjects)

    theirs = HFLM(pretrained=str(smollm2.folder), dtype="float32", device="cpu", batch_size=1)
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(record.prompt, f" {letter}"), idx=0)
        for record in records
        for letter in "ABCD"
    ]
    scores = [score for score, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
    for place, record in enumerate(records):
        expected = dict(zip("ABCD", scores[4 * place : 4 * place + 4], strict=True))
        assert record.choice_logprobs == pytest.approx(expected, abs=1e-3)
        assert record.answer == max(expected, key=expected.__getitem__)
