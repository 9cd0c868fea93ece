"""What a user types and sees: help at once, one line and exit code 2 for every mistake, nothing lost."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import doctor
from harness.cli_options import filters_of
from harness.cli_output import any_encoding, os_error_line
from harness.registry import task_names
from qwen_model import kernels
from qwen_model.catalogue import CATALOGUE
from tests.commands import HARNESS, harness, typed
from tests.conftest import make_checkpoint
from tests.sandbox.places import TIERS

SUMS = str(Path(__file__).parent / "scripted.py") + ":Sums"


@pytest.mark.parametrize("arguments", [("--help",), ("tasks",), ("run", "--help")])
def test_help_and_lists_import_nothing_heavy(arguments):
    code = f"import sys; sys.argv = ['harness', *{arguments!r}]\nfrom harness.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
    code += "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'lm_eval', 'matplotlib'} & set(sys.modules)\n"
    code += "sys.exit(f'imported {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tasks_as_json():
    listed = json.loads(typed("harness", "tasks", "--json").stdout)
    names = {entry["task"] for entry in listed}
    assert {f"{name}{kind}" for name in ("humaneval", "gsm8k", "mmlu") for kind in ("", "-chat")} <= names


def test_lists_of_tasks_and_models(tmp_path, monkeypatch):
    (mmlu,) = (entry for entry in json.loads(typed("harness", "tasks", "--json").stdout) if entry["task"] == "mmlu")
    shown = {"protocol": "base", "shots": "5", "metric": "accuracy", "the report's": "table 2, MMLU"}
    assert {name: mmlu[name] for name in shown} == shown
    lines = {line.split()[0]: line for line in typed("harness", "tasks").stdout.splitlines() if line.strip()}
    assert set(task_names()) <= set(lines) and lines["mmlu"].split()[1:4] == ["base", "5", "accuracy"]
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    lines = {line.split()[0]: line for line in typed("harness", "models").stdout.splitlines() if line.strip()}
    for name, entry in CATALOGUE.items():
        assert f"{entry.size_bytes / 1e6:,.0f} MB" in lines[name] and "to be fetched" in lines[name]


def test_doctor_says_what_is_in_place_and_what_is_not(tmp_path, monkeypatch):
    which = shutil.which
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps({"question": "?", "answer": "#### 1"}))
    (tmp_path / "math23k").mkdir()
    (tmp_path / "math23k" / "test.jsonl").write_text('{"half')
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(doctor, "hub_problem", lambda: "unplugged")
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: None if tool == "go" else which(tool))
    monkeypatch.setattr(kernels, "unavailable", lambda: "no compiler")
    found = doctor.examine()
    rows = {what: (state, detail) for what, state, detail in found}
    assert rows["machine"][0].startswith(f"{len(os.sched_getaffinity(0))} cores, ")
    assert rows["python"][0] == platform.python_version()
    assert rows["isolation"][0] in (*TIERS, "none: tasks that run code refuse")
    assert rows["decoding kernels"] == ("none: slower", "no compiler")
    state, detail = rows["language go"]
    assert state == "not installed" and "go (for go) not installed" in detail and "humanevalpack's go" in detail
    assert rows["cache"][0].endswith(" GB free, writable") and rows["cache"][1] == str(tmp_path / "cache")
    assert rows["model hub"] == ("unreachable", "unplugged")
    assert all(rows[f"model {name}"] == ("to be fetched", "") for name in CATALOGUE)
    assert rows["data GSM8K test"][0] == "here" and "gsm8k/test.jsonl" in rows["data GSM8K test"][1]
    state, detail = rows["data Math23K test"]
    assert state == "cannot be read" and "math23k/test.jsonl:1: not JSON" in detail
    assert rows["data MBPP"] == ("to be fetched", "or --data-dir with mbpp/mbpp.jsonl")
    assert not (tmp_path / "cache").exists(), "looking makes no folder"
    monkeypatch.setattr(doctor, "examine", lambda: found)
    done = typed("harness", "doctor")
    assert done.returncode == 0 and all(f"\n {what} " in done.stdout for what in rows)


def test_a_run_prints_its_table_and_a_second_run_loads_nothing(tiny, tmp_path):
    arguments = ("run", "--task", SUMS, "--model", tiny, "--out", tmp_path / "run")
    first = harness(*arguments)
    assert first.returncode == 0, first.stderr
    assert "50.0 %" in first.stdout and "Notes" in first.stdout and max(map(len, first.stdout.splitlines()[:9])) <= 120
    # columns that are nought everywhere are left to the report's files
    assert "Timeouts" not in first.stdout and "| Timeouts % |" in (tmp_path / "run" / "report.md").read_text()
    assert str(tmp_path / "run" / "report.html") in first.stdout
    second = harness(*arguments)
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert "loading" not in second.stderr


def test_dry_run_writes_nothing_and_names_the_time(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("run", "--task", SUMS, "--model", tiny, "--limit", 10)
    dry = typed("harness", *arguments, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert not list(tmp_path.iterdir())
    assert "sums" in dry.stdout
    assert "at most" in dry.stdout and " min" in dry.stdout


def test_a_field_may_be_filtered_twice():
    assert filters_of(["a=1,2", "b=5", "a=3"]) == {"a": ("1", "2", "3"), "b": ("5",)} == filters_of(["a=1,2,3", "b=5"])


def damaged_gguf(tmp_path):
    path = tmp_path / "half.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))
    return path


def empty_data(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text("")
    return tmp_path


def doubled_data(tmp_path):
    (tmp_path / "win_rate.jsonl").write_text('{"id": "p", "category": "math", "prompt": "1 + 1?"}\n' * 2)
    return tmp_path


def broken_task(tmp_path):
    (tmp_path / "broken.py").write_text("class X(")
    return tmp_path / "broken.py"


MISTAKES = {
    "wrong task": (lambda t, m: ["--task", "gsm9k", "--model", m], "did you mean gsm8k"),
    "no such task file": (lambda t, m: ["--task", "nothere.py:X", "--model", m], "nothere.py: no such file"),
    "wrong class": (lambda t, m: ["--task", SUMS.replace("Sums", "Sum"), "--model", m], "not a class derived"),
    "wrong model": (lambda t, m: ["--task", SUMS, "--model", "smollm2-135m"], "did you mean smollm2-135m-instruct"),
    "truncated GGUF": (lambda t, m: ["--task", SUMS, "--model", damaged_gguf(t)], "damaged or truncated GGUF"),
    "a text file": (lambda t, m: ["--task", SUMS, "--model", m / "config.json"], "neither a folder nor a .gguf file"),
    "empty data": (lambda t, m: ["--task", "gsm8k-chat", "--model", m, "--data-dir", empty_data(t)], "holds no rows"),
    "an id twice": (
        lambda t, m: ["--task", "win-rate", "--model", m, "--data-dir", doubled_data(t)],
        "win-rate: id 'p' is there twice",
    ),
    "no data folder": (lambda t, m: ["--task", "gsm8k-chat", "--model", m, "--data-dir", t / "no"], "no such folder"),
    "wrong filter": (lambda t, m: ["--task", SUMS, "--model", m, "--filter", "subject=x"], "its fields are i, parity"),
    "wrong value": (lambda t, m: ["--task", SUMS, "--model", m, "--filter", "parity=7"], "there are 0, 1"),
    "half a filter": (lambda t, m: ["--task", SUMS, "--model", m, "--filter", "parity"], "is not FIELD=VALUE"),
    "wrong limit": (lambda t, m: ["--task", SUMS, "--model", m, "--limit", 0], "--limit: 0"),
    "wrong dtype": (lambda t, m: ["--task", SUMS, "--model", m, "--dtype", "int8"], "--dtype: 'int8'"),
    "twice": (lambda t, m: ["--task", f"{SUMS},{SUMS}", "--model", m], "named twice"),
    "no shots file": (lambda t, m: ["--task", "gsm8k", "--model", m, "--shots-file", t / "none"], "none"),
    "empty shots file": (
        lambda t, m: ["--task", "gsm8k", "--model", m, "--shots-file", empty_data(t) / "gsm8k" / "test.jsonl"],
        "is empty",
    ),
    "broken task file": (lambda t, m: ["--task", f"{broken_task(t)}:X", "--model", m], "cannot be imported"),
    "shots not taken": (lambda t, m: ["--task", SUMS, "--model", m, "--shots-file", t / "none"], "takes none"),
    "unwritable out": (lambda t, m: ["--task", SUMS, "--model", m, "--out", "/proc/nowhere"], "cannot write there"),
    "no cuda": (lambda t, m: ["--task", SUMS, "--model", m, "--device", "cuda"], "cuda"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments, message = MISTAKES[mistake]
    done = typed("harness", "run", *arguments(tmp_path, tiny))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


def test_the_program_itself_ends_so(tmp_path):
    done = harness("run", "--task", "gsm9k", "--model", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "did you mean gsm8k" in done.stderr and not list(tmp_path.iterdir())


def test_report_of_no_run_is_one_line():
    done = typed("harness", "report", "/tmp")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "not a run folder" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run --tusk x", "No such option: --tusk (Possible options: --task); `harness run --help` lists"),
        ("run --task", "Option '--task' requires an argument; `harness --help`"),
        ("run --task gsm8k", "Missing option '--model'; `harness run --help`"),
        ("run --task a --model b --limit x", "Invalid value for '--limit': "),
        ("rnu", "No such command 'rnu'. Did you mean 'run'?; `harness --help`"),
        ("models of mine", "Got unexpected extra argument(s) (of mine); `harness models --help`"),
    ],
)
def test_what_the_parser_does_not_take_is_one_line(words, said):
    done = typed("harness", *words.split())
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert done.stderr.startswith(f"harness: {said}")


def test_nothing_typed_is_the_help():
    done = typed("harness")
    assert done.returncode == 2 and "Example: harness run" in done.stderr and "ablate" in done.stderr


@pytest.mark.parametrize(
    ("sent", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped")]
)
def test_a_signal_is_one_line_and_the_run_goes_on(sent, code, said, tmp_path):
    model = make_checkpoint(tmp_path / "model", hidden_size=480, intermediate_size=1920, num_hidden_layers=12)
    arguments = ["run", "--task", SUMS, "--model", str(model), "--out", str(tmp_path / "run")]
    process = subprocess.Popen([*HARNESS, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not (tmp_path / "run" / "samples.sqlite").exists():
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith(f"harness: {said}")
    assert harness(*arguments).returncode == 0


def test_what_an_encoding_lacks_ends_no_command(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", stream)
    any_encoding()
    print("24.2 \u2013 53.0")
    assert stream.buffer.getvalue() == b"24.2 ? 53.0\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a"),
            "a: No space left on device; check space and permissions",
        ),
        (FileExistsError(errno.EEXIST, "File exists", "a"), "a: File exists; give another path"),
    ],
)
def test_what_the_system_refuses_has_its_own_remedy(error, said):
    assert os_error_line(error) == said
