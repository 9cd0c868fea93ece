"""Do our engine and lm-evaluation-harness's own `hf` model give the same answers to the same prompts? Writes
docs/lm-eval-agreement.md.

    python -m tests.bench.lm_eval_agreement [--model smollm2-135m-instruct] [--gsm8k 24]

All items of five MMLU subjects by the letters' log-probabilities, and GSM8K's 8-shot prompts by greedy texts, float32.
About a quarter of an hour for the default on two cores, nearly all of it lm-eval's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import evaluate
from harness.environment import describe
from harness.records import SampleRecord
from qwen_model.checkpoint import find_checkpoint
from tasks.gsm8k import GSM8K

PAGE = Path(__file__).parents[2] / "docs" / "lm-eval-agreement.md"
SUBJECTS = ("abstract_algebra", "anatomy", "astronomy", "business_ethics", "college_biology")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many items were asked, how many answers are the same, and which differ and by what."""

    what: str
    items: int
    same: int
    ours: float
    theirs: float
    seconds: tuple[float, float]
    differing: list[str]


def letters(model: str, theirs: Any, folder: Path) -> tuple[Agreement, float]:
    """The agreement, and the greatest difference of a log-probability in nats."""
    from lm_eval.api.instance import Instance

    start = time.perf_counter()
    run = evaluate(["mmlu"], model, filter={"subject": SUBJECTS}, out=folder / "mmlu")
    between = time.perf_counter()
    records = list(run.records("mmlu"))
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=(record.prompt, f" {letter}"), idx=0)
        for record in records
        for letter in "ABCD"
    ]
    scores = [score for score, _ in theirs.loglikelihood(asked, disable_tqdm=True)]
    end = time.perf_counter()
    greatest, right, differing = 0.0, 0, []
    for place, record in enumerate(records):
        expected = dict(zip("ABCD", scores[4 * place : 4 * place + 4], strict=True))
        assert record.choice_logprobs is not None
        greatest = max(greatest, *(abs(record.choice_logprobs[letter] - expected[letter]) for letter in "ABCD"))
        answer = max(expected, key=expected.__getitem__)
        right += answer == record.gold
        if answer != record.answer:
            differing.append(f"{record.id}: {record.answer}, lm-eval {answer}")
    n = len(records)
    found = Agreement(
        what=f"MMLU 5-shot, {len(SUBJECTS)} subjects",
        items=n,
        same=n - len(differing),
        ours=sum(record.correct for record in records) / n,
        theirs=right / n,
        seconds=(between - start, end - between),
        differing=differing,
    )
    return found, greatest


def texts(model: str, theirs: Any, folder: Path, limit: int) -> Agreement:
    """The agreement of whole greedy replies."""
    from lm_eval.api.instance import Instance

    assert GSM8K.decoding is not None
    start = time.perf_counter()
    run = evaluate(["gsm8k"], model, limit=limit, out=folder / "gsm8k")
    between = time.perf_counter()
    records: list[SampleRecord] = list(run.records("gsm8k"))
    options = {"until": list(GSM8K.decoding.stop), "max_gen_toks": GSM8K.decoding.max_tokens, "do_sample": False}
    asked = [
        Instance(request_type="generate_until", doc={}, arguments=(record.prompt, dict(options)), idx=0)
        for record in records
    ]
    replies = theirs.generate_until(asked, disable_tqdm=True)
    end = time.perf_counter()
    task, right, differing = GSM8K(), 0, []
    for record, reply in zip(records, replies, strict=True):
        answer = task.extract(reply)
        right += answer is not None and task.equal(answer, record.gold)
        if reply != record.response:
            place = next((i for i, (a, b) in enumerate(zip(reply, record.response, strict=False)) if a != b), None)
            differing.append(f"{record.id}: from character {place} on; answers {record.answer} and {answer}")
    n = len(records)
    return Agreement(
        what="GSM8K 8-shot, whole texts",
        items=n,
        same=n - len(differing),
        ours=sum(record.correct for record in records) / n,
        theirs=right / n,
        seconds=(between - start, end - between),
        differing=differing,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--gsm8k", type=int, default=24)
    options = parser.parse_args()
    from lm_eval.models.huggingface import HFLM

    checkpoint = find_checkpoint(options.model)
    theirs = HFLM(pretrained=str(checkpoint.folder), dtype="float32", device="cpu", batch_size=1)
    with tempfile.TemporaryDirectory() as folder:
        scored, greatest = letters(options.model, theirs, Path(folder))
        written = texts(options.model, theirs, Path(folder), options.gsm8k)
    PAGE.write_text(page(options.model, (scored, written), greatest), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def page(model: str, found: tuple[Agreement, ...], greatest: float) -> str:
    machine = describe()["machine"]
    lines = [
        "# Does our engine give lm-eval's answers to the same prompts?",
        "",
        f"Written by `python -m tests.bench.lm_eval_agreement`: {model} in float32, our prompts, our engine against",
        f"lm-eval {version('lm-eval')}'s `hf` model at batch size 1. {machine['processor']}, {machine['cores']} cores.",
        "",
        "| | items | same answers | accuracy, ours | accuracy, lm-eval | seconds, ours | seconds, lm-eval |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {one.what} | {one.items} | {one.same} | {100 * one.ours:.2f} % | {100 * one.theirs:.2f} % "
            f"| {one.seconds[0]:.0f} | {one.seconds[1]:.0f} |"
            for one in found
        ),
        "",
        f"Greatest difference of a letter's log-probability: {greatest:.1e} nats. The seconds are of one run each.",
        "",
        *(f"- {difference}" for one in found for difference in one.differing),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
