"""`harness export --format lm-eval`: the results and samples files that lm-eval 0.4.13 writes, of a finished run.

Names, layout and keys are lm-eval's. A run of `lm-eval/NAME` becomes what lm-eval itself would have logged; a task of
ours has the prefix OURS, so that nobody takes its numbers for those of lm-eval's task of the same name. Beside
lm-eval's keys, which other programs read, stands what the run folder holds (MINE), which `harness import` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.lmeval.index import PREFIX
from harness.lmeval.tasks import LOGGED, measure_name
from harness.records import Run, SampleRecord, TaskResult, replacing, spec_hash, write_atomic
from tasks.api import OUTCOME_METRICS

OURS = "qwen_harness_"
"""Before the names of tasks that are not lm-eval's."""
MINE = "qwen_harness"
"""The key of what is not lm-eval's, in the results and in a sample's first row."""


def export(run: Run, out: Path) -> Path:
    """Write OUT/MODEL/results_DATE.json and samples_TASK_DATE.jsonl; the date is the run's. Returns the results file.

    Raises RunError while the run is unfinished.
    """
    from lm_eval.utils import hash_string, sanitize_model_name

    results, environment = run.results, run.environment
    when = datetime.fromisoformat(environment["finished"]).astimezone(UTC)
    # a run does not record microseconds: they keep apart what was finished in the same second
    stamp = when.replace(tzinfo=None, microsecond=int(spec_hash(run.spec), 16) % 1_000_000)
    date = stamp.isoformat(timespec="microseconds").replace(":", "-")
    model = run.spec["model"]
    folder = out / str(sanitize_model_name(model["name"]))
    folder.mkdir(parents=True, exist_ok=True)
    names = {task: exported_name(task) for task in run.spec["tasks"]}
    values: dict[str, dict[str, list[float]]] = {}
    hashes: dict[str, str] = {}
    for task, name in names.items():
        values[task], seen = {}, []
        path = folder / f"samples_{name}_{date}.jsonl"
        with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
            for row in _rows(run, task):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                seen.append(row["doc_hash"] + row["prompt_hash"] + row["target_hash"])
                for metric in row["metrics"]:
                    values[task].setdefault(measure_name(metric, row["filter"]), []).append(row[metric])
        hashes[name] = hash_string("".join(seen))
    document = _results(run, results, names, values)
    document |= {"date": stamp.replace(tzinfo=UTC).timestamp(), "task_hashes": hashes}
    written = folder / f"results_{date}.json"
    write_atomic(written, json.dumps(document, indent=2, ensure_ascii=False))
    return written


def exported_name(task: str) -> str:
    """lm-eval's name for its own tasks; a prefixed one for ours."""
    return task.removeprefix(PREFIX) if task.startswith(PREFIX) else OURS + task.replace("/", "_")


def output_type(record: SampleRecord) -> str:
    """lm-eval's word for how the sample was asked."""
    if record.choice_logprobs is not None:
        return "multiple_choice"
    kinds = {asked["kind"] for asked in record.asked}
    if "rolling" in kinds:
        return "loglikelihood_rolling"
    return "loglikelihood" if kinds & {"loglikelihood", "score"} else "generate_until"


def _rows(run: Run, task: str) -> Iterator[dict[str, Any]]:
    """lm-eval's rows of a task: all items under the first filter, then all under the next."""
    spec = run.spec["tasks"][task]
    filters = list(_logged(next(run.records(task)), spec)["filters"])
    for chosen in filters:
        for record in run.records(task):
            row = _row(record, _logged(record, spec), chosen)
            yield row | {MINE: asdict(record)} if chosen == filters[0] else row


def _row(record: SampleRecord, logged: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    """A sample under a filter, as lm-eval dumps it: answers as text."""
    from lm_eval.utils import hash_string, sanitize_list

    arguments = [[record.prompt if each is None else each for each in request] for request in logged["arguments"]]
    filtered = logged["filters"][chosen]
    return {
        "doc_id": doc_id(record),
        "doc": logged["doc"],
        "target": record.gold,
        "arguments": {
            f"gen_args_{i}": {f"arg_{j}": each for j, each in enumerate(request)} for i, request in enumerate(arguments)
        },
        "resps": sanitize_list(_answers(record, len(arguments))),
        "filtered_resps": sanitize_list(filtered["resps"]),
        "filter": chosen,
        "metrics": list(filtered["metrics"]),
        "doc_hash": hash_string(json.dumps(logged["doc"], indent=2, ensure_ascii=False)),
        "prompt_hash": hash_string(str(arguments[0][0])),
        "target_hash": hash_string(record.gold),
        **filtered["metrics"],
    }


def doc_id(record: SampleRecord) -> int:
    """The item's number in lm-eval's data; for a task of ours its place in the run."""
    return int(record.id.rpartition("/")[2]) if record.task.startswith(PREFIX) else record.position


def _answers(record: SampleRecord, requests: int) -> list[list[Any]]:
    """What the model gave, for each request the answers of all its repeats."""
    given: list[Any] = []
    for asked in record.asked:
        if asked["kind"] == "loglikelihood":
            given.append([asked["logprob"], asked["greedy"]])
        elif asked["kind"] == "generate":
            given.append(asked["text"])
        elif asked["kind"] == "rolling":
            given.append(math.fsum(asked["logprobs"]))
    if LOGGED in record.detail and given:
        repeats = len(given) // requests
        return [given[place * repeats : (place + 1) * repeats] for place in range(requests)]
    if record.choice_logprobs is not None:
        # whether a letter was the likeliest of all tokens is not known
        return [[[logprob, None]] for logprob in record.choice_logprobs.values()]
    return [[record.response]]


def _logged(record: SampleRecord, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """`logged_detail` of a sample; of a task of ours it is the last request, and our measures."""
    if LOGGED in record.detail:
        found: Mapping[str, Any] = record.detail[LOGGED]
        return found
    metric = spec["metric"]
    metrics = {metric: float(record.correct)} if metric in OUTCOME_METRICS else {}
    arguments: list[list[Any]] = [[None]]
    if record.choice_logprobs is not None:
        arguments = [[None, letter] for letter in record.choice_logprobs]
    elif (decoding := spec.get("decoding")) is not None:
        arguments = [[None, _generation(decoding)]]
    return {
        "doc": {"id": record.id, "group": record.group, "gold": record.gold},
        "arguments": arguments,
        "filters": {"none": {"resps": [record.answer], "metrics": metrics | dict(record.scores)}},
    }


def _generation(decoding: Mapping[str, Any]) -> dict[str, Any]:
    sampled = decoding["temperature"] > 0
    settings = {"until": list(decoding["stop"]), "max_gen_toks": decoding["max_tokens"], "do_sample": sampled}
    return settings | ({"temperature": decoding["temperature"], "top_p": decoding["top_p"]} if sampled else {})


def _results(
    run: Run,
    results: Mapping[str, Any],
    names: Mapping[str, str],
    values: Mapping[str, Mapping[str, list[float]]],
) -> dict[str, Any]:
    """All of lm-eval's results file but its date and hashes."""
    from lm_eval.utils import sanitize_model_name

    spec, environment = run.spec, run.environment
    tasks, model, packages = spec["tasks"], spec["model"], environment.get("packages", {})
    versions = {names[task]: tasks[task]["version"] for task in tasks}
    found: dict[str, Any] = {"results": {}, "group_subtasks": {names[task]: [] for task in tasks}, "configs": {}}
    better: dict[str, dict[str, bool | None]] = {}
    for task, name in names.items():
        found["results"][name], found["configs"][name], better[name] = _task(
            run, task, name, results[task], values[task]
        )
    seconds = sum(environment.get("seconds_by_stage", {}).values())
    return found | {
        "versions": versions,
        "n-shot": {names[task]: entry["shots"] for task, entry in tasks.items()},
        "higher_is_better": better,
        "n-samples": {
            names[task]: {"original": entry.get("items"), "effective": results[task].n} for task, entry in tasks.items()
        },
        "config": {
            "model": MINE,
            "model_args": {key: model[key] for key in ("backend", "dtype") if key in model} | {"model": model["name"]},
            "model_num_parameters": environment.get("parameters", -1),
            "model_dtype": f"torch.{model['dtype']}" if model.get("dtype") else "",
            "model_revision": "",
            "model_sha": model.get("fingerprint") or "",
            "batch_size": None,
            "batch_sizes": [],
            "device": model.get("device"),
            "use_cache": None,
            "limit": next((entry.get("limit") for entry in tasks.values()), None),
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            **dict.fromkeys(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"), spec.get("seed")),
        },
        "git_hash": None,
        "pretty_env_info": "\n".join(f"{key}: {value}" for key, value in environment.get("machine", {}).items()),
        "transformers_version": packages.get("transformers"),
        "lm_eval_version": packages.get("lm-eval"),
        "upper_git_hash": None,
        "model_source": MINE,
        "model_name": model["name"],
        "model_name_sanitized": sanitize_model_name(model["name"]),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(seconds),
        MINE: {
            "spec": spec,
            "tasks": json.loads((run.path / "results.json").read_text(encoding="utf-8"))["tasks"],
            "counted": run.counted,
        },
    }


def _task(
    run: Run, task: str, name: str, result: TaskResult, values: Mapping[str, list[float]]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bool | None]]:
    """A task's numbers, its configuration, and which way each metric is better, as lm-eval writes them."""
    from lm_eval.api.registry import is_higher_better

    entry = run.spec["tasks"][task]
    numbers: dict[str, Any] = {}
    better: dict[str, bool | None] = {}
    for ours, estimate in result.metrics.items():
        metric, comma, chosen = ours.rpartition(",")
        metric, chosen = (metric, chosen) if comma else (ours, "none")
        numbers[f"{metric},{chosen}"] = estimate.value
        error = _standard_error(values.get(ours, []), estimate.value)
        numbers[f"{metric}_stderr,{chosen}"] = "N/A" if error is None else error
        kind = entry.get("measures", {}).get(ours, "share")
        known = is_higher_better(metric) if task.startswith(PREFIX) else None
        better[metric] = {"share": True, "perplexity": False}.get(kind) if known is None else known
    config = {
        "task": name,
        "description": entry["title"],
        "output_type": output_type(next(run.records(task))),
        "num_fewshot": entry["shots"],
        "metric_list": [{"metric": metric, "higher_is_better": sign} for metric, sign in better.items()],
        "repeats": entry.get("draws", 1),
        **({"generation_kwargs": _generation(entry["decoding"])} if entry.get("decoding") else {}),
        "metadata": {"version": entry["version"]},
    }
    return {"name": name, "alias": name, "sample_len": result.n, **numbers}, config, better


def _standard_error(values: list[Any], reported: float) -> float | None:
    """lm-eval's, of the mean of independent items. None where the number is not the mean of two values or more."""
    if len(values) < 2 or not all(isinstance(value, int | float) for value in values):
        return None
    mean = math.fsum(values) / len(values)
    if not math.isclose(mean, reported):
        return None
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
