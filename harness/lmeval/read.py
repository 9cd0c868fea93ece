"""`harness import`: an output folder of lm-eval (results_*.json, samples_*.jsonl) becomes a run folder of ours.

What our own export wrote is taken back as it was. Of lm-eval's own files every number is computed again from the
samples; one that does not come out as the file has it is left out, and that is said.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.data import json_object
from harness.evaluation import Progress
from harness.lmeval.export import MINE
from harness.lmeval.index import PREFIX
from harness.lmeval.tasks import LOGGED, decoding, logged_detail, measure_name, plain
from harness.records import FORMAT, Run, SampleRecord, folder_name, keep_counted, spec_hash
from harness.requests import generate_digest, loglikelihood_digest
from harness.store import open_store
from harness.summary import summarise
from harness.whole import with_whole
from tasks.api import OUTCOME_METRICS, Kind, TaskError

FIELDS = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics")
"""What a row must have."""
FORM = "name files that lm_eval wrote, and copy them whole"


@dataclass
class _Measures:
    """How a task's numbers come of its samples, by our names: found by trying."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    whole: dict[str, Callable[[Sequence[Any]], float]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def read(path: Path, out: Path | None, progress: Progress) -> Run:
    """Read a folder, or one results file, into `out` or runs/MODEL-HASH. Raises TaskError that names file and field."""
    file = _results_file(path)
    content = file.read_bytes()
    results = json_object(content, str(file), FORM)
    digest = hashlib.sha256(content).hexdigest()[:16]
    if MINE in results:
        return _take_back(file, results, digest, out, progress)
    for name in ("results", "configs"):
        if not isinstance(results.get(name), dict):
            raise TaskError(f"{file}: field {name!r} is missing; name a results file that lm_eval wrote")
    entries: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    records: dict[str, list[SampleRecord]] = {}
    for name, config in results["configs"].items():
        samples = _samples_file(file, name)
        if not samples.is_file():
            progress.stage(f"{name}: left out, {samples.name} is not there; lm_eval writes it with --log_samples")
            continue
        rows = _by_item(samples)
        measures = _measures(rows, results["results"].get(name, {}))
        for line in measures.left:
            progress.stage(f"{name}: {line}")
        chief = _chief(config, measures)
        if chief is None:
            progress.stage(f"{name}: left out, none of its numbers comes of its samples")
            continue
        task = PREFIX + name
        records[task] = [
            _record(task, place, rows[id_], config, measures, chief) for place, id_ in enumerate(sorted(rows))
        ]
        entries[task] = _entry(name, config, results, measures, chief, samples)
        stand_in = OUTCOME_METRICS[0] if chief in measures.whole else chief
        summary = summarise(records[task], stand_in, measures=measures.kinds)
        tasks[task] = with_whole(summary, records[task], chief, measures.whole) if measures.whole else summary
    for name in sorted(results["results"].keys() - results["configs"].keys()):
        progress.stage(f"{name}: left out, it stands for several tasks and has no samples of its own")
    if not records:
        raise TaskError(f"{file}: none of its tasks has samples beside it; run lm_eval with --log_samples")
    spec = {**_spec(results), "tasks": entries, "imported": digest}
    return _write(spec, records, tasks, _facts(results), out, progress)


def _spec(results: Mapping[str, Any]) -> dict[str, Any]:
    """What determines the numbers, but for the tasks."""
    config = results.get("config", {})
    return {
        "format": FORMAT,
        "engine": f"lm-eval {results.get('lm_eval_version', '')}".strip(),
        "model": {
            "name": Path(str(results.get("model_name") or config.get("model"))).name,
            "fingerprint": config.get("model_sha") or "",
            "quantisation": None,
            "backend": f"lm-eval {results.get('model_source') or config.get('model')}",
            "dtype": str(config.get("model_dtype") or "").removeprefix("torch."),
            "device": str(config.get("device") or ""),
        },
        "seed": config.get("random_seed"),
    }


def _facts(results: Mapping[str, Any]) -> dict[str, Any]:
    """What environment.json says."""
    config = results.get("config", {})
    when = datetime.fromtimestamp(float(results.get("date") or 0), UTC)
    return {
        "finished": when.isoformat(timespec="seconds"),
        "packages": {
            name: found
            for name in ("lm-eval", "transformers")
            if (found := results.get(f"{name.replace('-', '_')}_version"))
        },
        **({"parameters": found} if isinstance(found := config.get("model_num_parameters"), int) else {}),
    }


def _take_back(file: Path, results: Mapping[str, Any], digest: str, out: Path | None, progress: Progress) -> Run:
    """The run that our export wrote: records, spec and numbers as they were."""
    from harness.lmeval.export import exported_name

    kept = results[MINE]
    spec = kept["spec"] | {"imported": digest}
    if spec["format"] != FORMAT:
        raise TaskError(f"{file}: of a run of format {spec['format']}, this version reads {FORMAT}; export it anew")
    records = {
        task: [
            SampleRecord(
                **row[MINE]
                | {"asked": tuple(row[MINE]["asked"])}
                | {"token_logprobs": None if (found := row[MINE]["token_logprobs"]) is None else tuple(found)}
            )
            for _, row in _rows(_samples_file(file, exported_name(task)))
            if MINE in row
        ]
        for task in spec["tasks"]
    }
    when = datetime.fromtimestamp(float(results["date"]), UTC).isoformat(timespec="seconds")
    facts = {"finished": when, "parameters": results["config"]["model_num_parameters"]}
    run = _write(spec, records, kept["tasks"], facts, out, progress)
    keep_counted(run.path, kept.get("counted", {}))
    return run


def _write(
    spec: Mapping[str, Any],
    records: Mapping[str, Sequence[SampleRecord]],
    tasks: Mapping[str, Any],
    facts: Mapping[str, Any],
    out: Path | None,
    progress: Progress,
) -> Run:
    folder = out or Path("runs") / folder_name(spec["model"]["name"], spec_hash(spec)[:8])
    with open_store(folder, spec) as store:
        progress.stage(f"run folder: {folder}")
        for task, its in records.items():
            done = store.done(task)
            progress.begin(task, len(done), len(its))
            for record in its:
                if record.id not in done:
                    store.add(record)
                    progress.judged(task)
        store.finish({"spec": spec, "tasks": tasks}, facts)
    return Run(folder)


# --- files -----------------------------------------------------------------------------------------------------------


def _results_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.rglob("results_*.json"), key=lambda file: file.name)
    if not found:
        raise TaskError(
            f"{path}: no results_*.json below it; name a folder that lm_eval wrote by --output_path with --log_samples"
        )
    if len(found) > 1:
        raise TaskError(f"{path}: {len(found)} results files below it; name one of them, such as the last, {found[-1]}")
    return found[0]


def _samples_file(results: Path, task: str) -> Path:
    return results.with_name(f"samples_{task}_{results.stem.rpartition('_')[2]}.jsonl")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a samples file."""
    if not path.is_file():
        raise TaskError(f"{path}: no such file; it belongs beside the results file")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, json_object(line, f"{path}:{number}", FORM)


def _by_item(path: Path) -> dict[int, dict[str, dict[str, Any]]]:
    """A task's rows by item and filter."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for number, row in _rows(path):
        for name in FIELDS:
            if name not in row:
                raise TaskError(f"{path}:{number}: field {name!r} is missing; lm_eval 0.4.13 writes it")
        if row["filter"] in found.setdefault(row["doc_id"], {}):
            raise TaskError(f"{path}:{number}: item {row['doc_id']} is there twice; take one run's file")
        found[row["doc_id"]][row["filter"]] = row
    if not found:
        raise TaskError(f"{path}: holds no samples; run lm_eval again")
    return found


# --- numbers ---------------------------------------------------------------------------------------------------------


def _measures(rows: Mapping[int, Mapping[str, Mapping[str, Any]]], reported: Mapping[str, Any]) -> _Measures:
    """Which kind of number each of lm-eval's is: the one that gives, of the samples, what the results file has."""
    from lm_eval.api.registry import get_metric_aggregation

    values: dict[tuple[str, str], list[Any]] = {}
    for id_ in sorted(rows):
        for chosen, row in rows[id_].items():
            for metric in row["metrics"]:
                if metric in row:
                    values.setdefault((metric, chosen), []).append(row[metric])
    found = _Measures()
    for (metric, chosen), its in values.items():
        name, number = measure_name(metric, chosen), reported.get(f"{metric},{chosen}")
        if not isinstance(number, int | float):
            continue
        numbers = [float(value) for value in its if isinstance(value, int | float) and math.isfinite(value)]
        mean = math.fsum(numbers) / len(numbers) if len(numbers) == len(its) else math.nan
        if math.isclose(mean, number, rel_tol=1e-6, abs_tol=1e-12):
            found.kinds[name] = "share" if set(numbers) <= {0.0, 1.0} else "mean"
        elif abs(mean) < 700 and math.isclose(math.exp(-mean), number, rel_tol=1e-6):
            found.kinds[name] = "perplexity"
        elif (function := get_metric_aggregation(metric)) is not None and _comes_out(function, its, number):
            found.whole[name] = function
        else:
            found.left.append(f"{name} is left out: {number} does not come of the samples by a rule that we know")
    return found


def _comes_out(function: Callable[[Sequence[Any]], float], values: Sequence[Any], number: float) -> bool:
    try:
        return math.isclose(function(values), number, rel_tol=1e-6)
    except (ArithmeticError, TypeError, ValueError):  # it is not of such values
        return False


def _chief(config: Mapping[str, Any], measures: _Measures) -> str | None:
    """The first metric of the task's file that we have, under the first filter, else the first of any."""
    names = [*measures.kinds, *measures.whole]
    for metric in config.get("metric_list") or []:
        for name in names:
            if name.partition(",")[0] == metric.get("metric"):
                return name
    return next(iter(names), None)


def _entry(
    name: str, config: Mapping[str, Any], results: Mapping[str, Any], measures: _Measures, chief: str, samples: Path
) -> dict[str, Any]:
    """What stands in the spec; `data` and `prompts`, digests of all items and of what is asked, are not known."""
    generation = config.get("generation_kwargs")
    return {
        "version": results.get("versions", {}).get(name),
        "title": f"{name} (lm-eval {results.get('lm_eval_version', '')}, imported)",
        "protocol": "chat" if results.get("chat_template") else "base",
        "shots": results.get("n-shot", {}).get(name),
        "metric": chief,
        "measures": measures.kinds | dict.fromkeys(measures.whole, "mean"),
        "mean": "items",
        "sets": {},
        "options": {},
        "decoding": None,
        **({"generation_kwargs": generation} if generation else {}),
        "report": None,
        "items": results.get("n-samples", {}).get(name, {}).get("original"),
        "limit": results.get("config", {}).get("limit"),
        "filter": {},
        "samples": hashlib.sha256(samples.read_bytes()).hexdigest()[:16],
    }


# --- samples ---------------------------------------------------------------------------------------------------------


def _record(
    task: str,
    position: int,
    rows: Mapping[str, Mapping[str, Any]],
    config: Mapping[str, Any],
    measures: _Measures,
    chief: str,
) -> SampleRecord:
    """A record as `lm-eval/NAME` would have written it."""
    *_, last = rows.values()
    arguments = [list(request.values()) for request in last["arguments"].values()]
    given = [[_answer(task, last["doc_id"], one) for one in repeats] for repeats in last["resps"]]
    values = {measure_name(metric, chosen): row[metric] for chosen, row in rows.items() for metric in row["metrics"]}
    sign = {name: -1.0 if kind == "perplexity" else 1.0 for name, kind in measures.kinds.items()}
    scores = {name: sign[name] * float(values[name]) for name in measures.kinds if name in values}
    right = scores.get(chief) == 1 if measures.kinds.get(chief) == "share" else None
    filters = {
        chosen: {"resps": row["filtered_resps"], "metrics": {metric: row[metric] for metric in row["metrics"]}}
        for chosen, row in rows.items()
    }
    generated = config.get("output_type") == "generate_until"
    whole = {name: values[name] for name in measures.whole if name in values}
    return SampleRecord(
        task=task,
        id=f"{task}/{last['doc_id']}",
        position=position,
        group=None,
        prompt=str(arguments[-1][0]),
        response=str(given[-1][-1]) if generated else "",
        answer=str(last["filtered_resps"][0]) if generated else None,
        gold=str(last["target"]),
        correct=bool(right),
        outcome="measured" if right is None else "correct" if right else "wrong",
        finish=None,
        choice_logprobs={str(place): repeats[0][0] for place, repeats in enumerate(given)}
        if config.get("output_type") == "multiple_choice"
        else None,
        token_logprobs=None,
        scores=scores,
        asked=tuple(_asked(request, one) for request, repeats in zip(arguments, given, strict=True) for one in repeats),
        detail={
            **({"whole": plain(whole)} if whole else {}),
            LOGGED: logged_detail(last["doc"], arguments, filters),
        },
        seconds=0.0,
    )


def _answer(task: str, item: int, given: Any) -> Any:
    """[nats, whether greedy] of lm-eval's pair of texts; a text as it is."""
    if not isinstance(given, list):
        return given
    if not math.isfinite(float(given[0])):
        raise TaskError(f"{task}, item {item}: a log-probability is {given[0]}, which is no number; run lm_eval again")
    return [float(given[0]), given[1] == "True"]


def _asked(request: Sequence[Any], given: Any) -> dict[str, Any]:
    """A request with its answer, as a run keeps it."""
    if isinstance(given, list):
        digest = loglikelihood_digest(request[0], request[1])
        return {"kind": "loglikelihood", "request": digest, "logprob": given[0], "greedy": given[1]}
    if len(request) == 1:  # how a rolling text was cut is not in lm-eval's files: no request of ours is the same
        return {"kind": "rolling", "request": "", "logprobs": [float(given)], "tokens": 0}
    try:
        digest = generate_digest(request[0], decoding(request[1]))
    except TaskError:  # settings that our models do not take
        digest = ""
    return {"kind": "generate", "request": digest, "text": given, "finish": None, "logprobs": []}
