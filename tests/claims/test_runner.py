"""Commands as processes: order, markers, failures, and kill -9 in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.claims import runner
from harness.claims.family import Family, Line
from harness.claims.plan import Plan
from harness.claims.steps import Job, Step
from tasks.api import TaskError

NOTE = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(parents=True, exist_ok=True);"
COUNT = NOTE + " (p / 'runs').open('a').write('x')"
FAMILY = Family(
    name="toy",
    reach=4,
    documents=None,
    dtype="float32",
    trained_here=True,
    lines=tuple(Line(size="toy", seed=seed, trained=16, models={}) for seed in (1, 2)),
)


def step(code: str, arguments: str = "{out}", **more) -> Step:
    return Step(command=f'python -c "{code}" {arguments}', minutes=0.1, **more)


STEPS = {
    "texts": step(COUNT, per="once"),
    "base": step(COUNT, "{out} {step:texts} {seed}", makes={"base": "model"}),
    "loss": step(COUNT, "{out} {base} {lengths}"),
}


def jobs(folder: Path, steps=STEPS) -> list[Job]:
    """All of `loss` for both seeds, in the order in which they run."""
    plan = Plan(FAMILY, folder, None, steps)
    found: dict[Path, Job] = {}

    def add(job: Job) -> None:
        for earlier in job.after:
            add(earlier)
        found.setdefault(job.out, job)

    for line in FAMILY.lines:
        job = plan.job("loss", line)
        assert isinstance(job, Job)
        add(job)
    return list(found.values())


def counts(folder: Path) -> dict[str, int]:
    return {str(path.parent.relative_to(folder)): len(path.read_text()) for path in sorted(folder.rglob("runs"))}


ONCE = {
    "texts": 1, "toy/seed-1/base": 1, "toy/seed-1/loss": 1, "toy/seed-2/base": 1, "toy/seed-2/loss": 1
}  # fmt: skip


def test_names_in_braces_are_filled(tmp_path):
    first, base, loss, *_ = jobs(tmp_path)
    assert [first.name, base.name, loss.name] == ["texts", "toy seed-1: base", "toy seed-1: loss"]
    assert base.command[-3:] == (str(tmp_path / "toy/seed-1/base"), str(tmp_path / "texts"), "1")
    assert loss.command[-3:] == (str(tmp_path / "toy/seed-1/loss"), str(tmp_path / "toy/seed-1/base/model"), "16,32,64")
    assert loss.after == (base,) and base.after == (first,)


def test_each_command_runs_once(tmp_path):
    assert runner.run(jobs(tmp_path)) == {}
    assert counts(tmp_path) == ONCE
    assert runner.run(jobs(tmp_path)) == {} and counts(tmp_path) == ONCE
    marker = json.loads((tmp_path / "toy/seed-1/base.done.json").read_text())
    assert marker["step"] == "base" and marker["seconds"] >= 0
    assert (tmp_path / "toy/seed-1/base.log").read_text().startswith("$ python -c ")


def test_what_came_before_is_part_of_the_key_and_places_are_not(tmp_path):
    here = {job.name: job.key for job in jobs(tmp_path / "a")}
    assert here == {job.name: job.key for job in jobs(tmp_path / "b")}
    changed = STEPS | {"texts": step(COUNT, "{out} more", per="once")}
    there = {job.name: job.key for job in jobs(tmp_path / "a", changed)}
    assert all(here[name] != there[name] for name in here)


def test_a_folder_of_another_command_is_refused(tmp_path):
    runner.run(jobs(tmp_path))
    changed = STEPS | {"base": step(COUNT, "{out} {step:texts} {seed} 7", makes={"base": "model"})}
    with pytest.raises(TaskError, match=r"toy/seed-1/base: was made by another command than .*delete the folder"):
        runner.run(jobs(tmp_path, changed))
    assert counts(tmp_path) == ONCE


def test_a_failure_is_named_and_the_rest_goes_on(tmp_path, capfd):
    code = "import sys; int(sys.argv[3]) == 1 and sys.exit('no such thing; give another');" + COUNT
    broken = STEPS | {"base": step(code, "{out} {step:texts} {seed}", makes={"base": "model"})}
    failed = runner.run(jobs(tmp_path, broken))
    assert failed == {
        tmp_path / "toy/seed-1/base": "no such thing; give another",
        tmp_path / "toy/seed-1/loss": "toy seed-1: base failed",
    }
    assert counts(tmp_path) == {name: 1 for name in ONCE if "seed-1" not in name}
    told = capfd.readouterr().err
    assert "[2/5] toy seed-1: base; about" in told and "failed: toy seed-1: base: no such thing" in told


def test_estimates_count_beside_the_first_finished_jobs(tmp_path):
    found = jobs(tmp_path, {name: one.model_copy(update={"minutes": 10}) for name, one in STEPS.items()})
    assert runner._Whole(found).left() == 5 * 600
    found[0].marker.write_text(json.dumps({"key": found[0].key, "seconds": 0.0}))
    # ten minutes of estimates count beside the ten that took nothing
    assert runner._Whole(found).left() == 4 * 600 / 2


def test_a_recipe_lies_beside_the_folder(tmp_path):
    code = NOTE + " print(pathlib.Path(sys.argv[2]).read_text())"
    steps = STEPS | {
        "base": step(code, "{out} {recipe} {step:texts}", makes={"base": "model"}, recipe={"seed": "{seed}", "n": 3})
    }
    assert runner.run(jobs(tmp_path, steps)) == {}
    assert (tmp_path / "toy/seed-2/base.yaml").read_text() == "seed: '2'\nn: 3\n"
    assert "seed: '2'" in (tmp_path / "toy/seed-2/base.log").read_text()


def test_a_step_after_itself_and_an_unknown_name_are_said(tmp_path):
    with pytest.raises(TaskError, match="loss comes after itself"):
        jobs(tmp_path, STEPS | {"texts": step(COUNT, "{out} {step:loss}", per="once")})
    with pytest.raises(TaskError, match=r"\{lenghts\} is not one of"):
        jobs(tmp_path, STEPS | {"texts": step(COUNT, "{out} {lenghts}", per="once")})
    with pytest.raises(TaskError, match="no step is called 'text'"):
        jobs(tmp_path, STEPS | {"base": step(COUNT, "{out} {step:text}", makes={"base": "model"})})


SCRIPT = """
import sys
from pathlib import Path
from harness.claims import runner
from tests.claims import test_runner as here
steps = here.slow(float(sys.argv[2]))
print(runner.run(here.jobs(Path(sys.argv[1]), steps)))
"""


def slow(seconds: float) -> dict[str, Step]:
    """The second of the five waits, but its command is the same whatever it waits for."""
    code = COUNT + "; (p / 'pid').write_text(str(__import__('os').getpid()))"
    code += "; __import__('time').sleep(float(__import__('os').environ['WAIT']))"
    os.environ["WAIT"] = str(seconds)
    return STEPS | {"base": step(code, "{out} {step:texts} {seed}", makes={"base": "model"})}


def test_killed_in_the_middle_it_goes_on(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen([*command, "60"], stderr=subprocess.DEVNULL)
    pid = tmp_path / "toy/seed-1/base/pid"
    deadline = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    child = int(pid.read_text())
    while Path(f"/proc/{child}").exists():  # what it had started ends as well
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert counts(tmp_path) == {"texts": 1, "toy/seed-1/base": 1}
    done = subprocess.run([*command, "0"], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "{}"
    assert counts(tmp_path) == ONCE | {"toy/seed-1/base": 2}  # begun twice, finished once
