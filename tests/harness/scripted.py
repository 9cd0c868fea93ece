"""A tiny task and checkpoints of our own for engine tests; found as `tests/harness/scripted.py:Sums`."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import ClassVar

from tasks.api import Chat, Decoding, Sample, Source, Task, Verdict


class Sums(Task):
    """Additions: half of the samples are asked twice, half by choice."""

    needs_logprobs = True

    name = "sums"
    version = 1
    title = "additions"
    protocol = "base"
    shots = 2
    metric = "accuracy"
    source = Source(name="sums", files=("sums.jsonl",))
    decoding = Decoding(max_tokens=8, stop=("\n",))

    def samples(self, load):
        return [
            Sample(id=f"sums/{i}", fields={"i": i, "parity": i % 2}, gold=str(2 * i), group="ab"[i % 2])
            for i in range(40)
        ]

    def prompt(self, sample):
        return f"1 + 1 = 2\n2 + 2 = 4\n{sample.fields['i']} + {sample.fields['i']} ="

    async def judge(self, sample, model, sandbox):
        if sample.fields["parity"]:
            scores = await model.score(self.prompt(sample), [" a", " b", " c then more"])
            best = "abc"[scores.index(max(scores))]
            return Verdict(
                answer=best,
                outcome="correct" if best == "a" else "wrong",
                choice_logprobs=dict(zip("abc", scores, strict=True)),
            )
        first = await model.generate(self.prompt(sample), self.decoding)
        again = await model.generate(Chat((("user", first.text),)), Decoding(max_tokens=5, temperature=0.9))
        return Verdict(answer=first.text.strip() or None, outcome="wrong" if again.text else "unextracted")


class Fails(Sums):
    """A task with a mistake of its author's."""

    name = "fails"

    async def judge(self, sample, model, sandbox):
        await model.generate("x", Decoding(max_tokens=2))
        raise RuntimeError("the author's mistake")


class Guesses(Sums):
    """One generated answer per sample, judged by chance: for pass@k."""

    needs_logprobs = False

    name = "guesses"
    metric = "pass@1"

    async def judge(self, sample, model, sandbox):
        reply = await model.generate(self.prompt(sample), self.decoding)
        outcome = "correct" if sum(map(ord, reply.text)) % 3 == 0 else "wrong"
        return Verdict(answer=reply.text, outcome=outcome)


class Tools(Sums):
    """A metric that is a mean over groups, with a share over half of the samples, a perplexity and a set."""

    name = "tools"
    metric = "rouge"
    measures: ClassVar = {"rouge": "mean", "called": "share", "loss": "perplexity"}
    mean = "groups"
    sets: ClassVar = {"first": ("a",)}

    def samples(self, load):
        return [replace(sample, group="ab"[sample.fields["i"] % 3 == 0]) for sample in super().samples(load)]

    async def judge(self, sample, model, sandbox):
        (score,) = await model.score(self.prompt(sample), [" a"])
        scores = {"rouge": (sample.fields["i"] % 7) / 7, "loss": -score}
        if sample.fields["parity"]:
            scores["called"] = score < -5
        return Verdict(answer=None, outcome="wrong", scores=scores)


class Likely(Sums):
    """Asks as lm-evaluation-harness does, with one continuation of several tokens."""

    name = "likely"
    decoding = None

    async def judge(self, sample, model, sandbox):
        scores = [await model.loglikelihood(self.prompt(sample), text) for text in (" a", " b and more")]
        return Verdict(answer=None, outcome="correct" if scores[0] > scores[1] else "wrong")


class Talks(Guesses):
    """The same as a conversation."""

    name = "talks"

    def prompt(self, sample):
        return Chat((("user", super().prompt(sample)),))


class Dies(Guesses):
    """With HARNESS_TEST_DIES=RANK:N that rank kills itself at its N-th sample."""

    name = "dies"
    judged = 0

    async def judge(self, sample, model, sandbox):
        verdict = await super().judge(sample, model, sandbox)
        self.judged += 1
        if os.environ.get("HARNESS_TEST_DIES") == f"{os.environ.get('RANK')}:{self.judged}":
            os.kill(os.getpid(), signal.SIGKILL)
        return verdict


class Surprises(Sums):
    """A perplexity over samples whose ids are bare numbers; the first has none."""

    name = "surprises"
    metric = "loss"
    measures: ClassVar = {"loss": "perplexity"}
    decoding = None

    def samples(self, load):
        return [replace(sample, id=str(sample.fields["i"])) for sample in super().samples(load)]

    async def judge(self, sample, model, sandbox):
        (score,) = await model.score(self.prompt(sample), [" a"])
        return Verdict(answer=None, outcome="measured", scores={"loss": -score} if sample.fields["i"] else {})
