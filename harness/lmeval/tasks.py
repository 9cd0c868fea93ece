"""`lm-eval/NAME`: a task of lm-evaluation-harness judged through our engine and kept in our run folders.

Its prompts, few-shot examples, filters, metrics and aggregation are its own; what it asks of a model we answer.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from harness.lmeval.build import build
from harness.lmeval.index import PREFIX, task_file
from tasks.api import Decoding, Kind, Loader, Model, Prompt, Sample, Sandbox, Task, TaskError, Verdict

MAX_TOKENS = 256
"""lm-eval's default for a task that names no length."""

_OF_DRAWS = ("top_k", "min_p", "typical_p")
_VAIN = (("num_beams", 1), ("top_k", 0))
"""Settings that change nothing."""

LOGGED = "lm-eval"
"""In a record's detail: `logged_detail`."""

SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
"""Metrics that are 0 or 1 for each item, where lm-eval itself computes them."""


class LmEvalTask(Task):
    """One class for all of them; what lm-eval's file says is known from `samples` on."""

    file: ClassVar[Path]
    version: ClassVar[int] = 1
    protocol = "base"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "accuracy"

    def samples(self, load: Loader) -> list[Sample]:
        name = self.name.removeprefix(PREFIX)
        self.theirs = theirs = build(name, self.file, load)
        self.filters = [each.name for each in theirs._filters]
        self._declare()
        self.documents = list(theirs.eval_docs)
        # all of them in order, as lm-eval does: the draw of few-shot examples goes on from item to item
        self.requests = [self._requests(number, document) for number, document in enumerate(self.documents)]
        return [
            Sample(
                id=f"{self.name}/{number}",
                fields={"doc_id": number, "doc": plain(document)},
                gold=str(theirs.doc_to_target(document)),
            )
            for number, document in enumerate(self.documents)
        ]

    @property
    def needs_logprobs(self) -> bool:
        return str(self.theirs.OUTPUT_TYPE) != "generate_until"

    def _declare(self) -> None:
        """What the class could not say yet: version, shots and measures are the task file's."""
        from lm_eval.api.metrics import mean, nanmean, perplexity

        theirs, measures = self.theirs, dict[str, Kind]()
        whole: dict[str, Callable[[Sequence[Any]], float]] = {}
        self._negated: set[str] = set()  # lm-eval's perplexity is of log-likelihoods, ours of losses
        for metric, aggregate in theirs.aggregation().items():
            for key in (measure_name(metric, chosen) for chosen in self.filters):
                if aggregate is perplexity:
                    measures[key] = "perplexity"
                    self._negated.add(key)
                elif aggregate not in (mean, nanmean):
                    whole[key] = aggregate
                elif metric in SHARES and not callable(theirs.config.process_results):
                    measures[key] = "share"
                else:
                    measures[key] = "mean"
        names = [*measures, *whole]
        if not names:
            raise TaskError(f"{self.name}: it has no metric; take another task")
        first = measure_name(next(iter(theirs.aggregation())), self.filters[0])
        made_by = f"lm-eval {version('lm_eval')}, version {theirs.VERSION}"
        # attributes of this one object, where the class has those of any task of lm-eval
        vars(self).update(
            title=f"{theirs.config.task} ({made_by})",
            version=theirs.VERSION,
            shots=theirs.config.num_fewshot,
            metric=first,
            measures=measures,
            whole=whole,
        )

    def _requests(self, number: int, document: Any) -> list[Any]:
        theirs, extra = self.theirs, {}
        if theirs.doc_to_prefix(document):
            extra["gen_prefix"] = theirs.doc_to_prefix(document)
        context = theirs.fewshot_context(document, num_fewshot=theirs.config.num_fewshot, **extra)
        metadata = (theirs.config.task, number, theirs.config.repeats)
        made = theirs.construct_requests(doc=document, ctx=context, metadata=metadata)
        return made if isinstance(made, list) else [made]

    def prompt(self, sample: Sample) -> Prompt:
        return str(self.requests[sample.fields["doc_id"]][0].args[0])

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        number = sample.fields["doc_id"]
        requests, theirs = self.requests[number], self.theirs
        asked = [_answer(request, model) for request in requests for _ in range(request.repeats or 1)]
        answers = iter(await asyncio.gather(*asked))
        for request in requests:
            request.resps = [next(answers) for _ in range(request.repeats or 1)]
        values: dict[str, Any] = {}
        logged: dict[str, Any] = {}
        for ensemble in theirs._filters:
            ensemble.apply(requests)
            filtered = [request.filtered_resps[ensemble.name] for request in requests]
            found = theirs.process_results(self.documents[number], filtered)
            values |= {measure_name(metric, ensemble.name): value for metric, value in found.items()}
            logged[ensemble.name] = {"resps": filtered, "metrics": found}
        scores = {name: self._score(name, values[name]) for name in self.measures if name in values}
        scores = {name: value for name, value in scores.items() if not math.isnan(value)}
        chief = scores.get(self.metric)
        outcome = "measured"
        if self.measures.get(self.metric) == "share":
            outcome = "correct" if chief == 1 else "wrong"
        whole = {name: plain(values[name]) for name in self.whole if name in values}
        choices = None
        if theirs.OUTPUT_TYPE == "multiple_choice":
            choices = {str(place): request.resps[0][0] for place, request in enumerate(requests)}
        return Verdict(
            answer=str(filtered[0]) if theirs.OUTPUT_TYPE == "generate_until" else None,
            outcome=outcome,
            choice_logprobs=choices,
            scores=scores,
            detail={
                **({"whole": whole} if self.whole else {}),
                LOGGED: logged_detail(self.documents[number], [request.args for request in requests], logged),
            },
        )

    def _score(self, name: str, value: Any) -> float:
        return -float(value) if name in self._negated else float(value)


def lm_eval_task(name: str) -> type[Task]:
    """The class of `lm-eval/NAME`. Raises TaskError with the closest names."""
    known = {"name": name, "title": f"{name} of lm-eval", "file": task_file(name.removeprefix(PREFIX))}
    return type("LmEvalTask", (LmEvalTask,), known)


async def _answer(request: Any, model: Model) -> Any:
    """What lm-eval's own models give back for this kind of request."""
    if request.request_type == "loglikelihood":
        context, continuation = request.args
        return await model.loglikelihood(context, continuation)
    if request.request_type == "loglikelihood_rolling":
        (text,) = request.args
        # lm-eval's windows: each predicts as many tokens as the model was trained at, the first behind a begin token
        room = model.train_length
        rolled = await model.rolling(text, length=room + 1, stride=room, begin=True)
        return math.fsum(rolled.logprobs)
    context, settings = request.args
    return (await model.generate(context, decoding(settings))).text


def decoding(settings: Mapping[str, Any]) -> Decoding:
    """lm-eval's generation settings as ours. Raises TaskError for what we cannot do."""
    from lm_eval.models.utils import normalize_gen_kwargs

    given = dict(normalize_gen_kwargs(dict(settings), MAX_TOKENS))
    until = given.pop("until", None) or []
    sampled = given.pop("do_sample", False)
    temperature = float(given.pop("temperature", 0.0) or (1.0 if sampled else 0.0))
    tokens, top_p = int(given.pop("max_gen_toks")), float(given.pop("top_p", 1.0))
    # of what is left, greedy decoding does not ask how much of the distribution to draw from
    strange = [
        name for name, value in given.items() if (sampled or name not in _OF_DRAWS) and (name, value) not in _VAIN
    ]
    if strange:
        raise TaskError(f"lm-eval's generation setting {strange[0]!r} is not ours; leave it out, or the task")
    return Decoding(
        max_tokens=tokens,
        stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        temperature=temperature if sampled else 0.0,
        top_p=top_p if sampled else 1.0,
    )


def measure_name(metric: str, chosen: str) -> str:
    """lm-eval's name of a metric; of a filter's that is not the only one too."""
    return metric if chosen == "none" else f"{metric},{chosen}"


def logged_detail(document: Any, arguments: Sequence[Sequence[Any]], filters: Mapping[str, Any]) -> dict[str, Any]:
    """What lm-eval would log of a sample and a record has not: {"doc", "arguments" of each request, "filters": {name:
    {"resps", "metrics"}}}. A context that is the last one's too, which is the record's prompt, stands as None."""
    shown = arguments[-1][0]
    kept = [[None if len(each) > 1 and each[0] == shown else each[0], *each[1:]] for each in arguments]
    return {"doc": plain(document), "arguments": plain(kept), "filters": plain(filters)}


def plain(value: Any) -> Any:
    """A value as JSON can hold it, which has no NaN."""
    text = json.dumps(value, default=lambda other: other.tolist() if hasattr(other, "tolist") else str(other))
    return json.loads(text, parse_constant=str)
