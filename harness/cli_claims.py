"""`harness claims`: does what the Qwen report says hold?"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli_options import names_of
from harness.cli_output import print_table
from tasks.api import TaskError

if TYPE_CHECKING:
    from harness.claims.steps import Job

SOME_FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the command to the `harness` command."""
    app.command(
        epilog="Examples: harness claims | harness claims --run --only table3 | harness claims --models family.yaml "
        "--only mmlu-logn. Exit code 1: a command that was to make evidence failed. A claim that fails is no error."
    )(claims)


def claims(
    results: Annotated[Path, typer.Option(help="Folder of the evidence, and of the ledger.")] = Path("reproduction"),
    models: Annotated[
        Path | None, typer.Option(help="Test a family of your own (docs/claims.md); what is not there yet is run.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Claims or tables of the report, by commas: windows-improve, table3.")
    ] = None,
    run: Annotated[
        bool | None,
        typer.Option("--run/--no-run", help="Run the commands whose evidence is not there; by default for --models."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the commands that --run would run.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with data sets (docs/data.md), for all commands; or $HARNESS_DATA.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The ledger as JSON: all of standard output.")] = False,
) -> None:
    """Say which of the report's claims hold, by how much, and how to test those that were not: the ledger.

    Without --models the claims are tested on nano models that `make reproduce` trains, three of each. Finished commands
    are never run twice: the same call goes on where it was.
    """
    from harness.claims import runner
    from harness.claims.experiment import experiments
    from harness.claims.family import NANO, read_family
    from harness.claims.ledger import as_json as ledger_as_json
    from harness.claims.ledger import ledger, left_out
    from harness.claims.plan import Plan
    from reports import ledger as shown

    words = names_of(only or "")
    if only is not None and not words:
        raise TaskError("--only: names nothing; name a claim or a table, such as table3")
    asked = experiments(words)
    data = _data(data_dir)
    plan = Plan(read_family(models or NANO), results, data)
    jobs = plan.jobs(asked)
    if dry_run:
        _print_jobs(jobs)
        return
    wanted = models is not None if run is None else run
    failed = runner.run(jobs) if wanted else {}
    command = shlex.join(_command(results, models, data_dir))
    whole = ledger(experiments(), plan, command, failed)
    names = {experiment.name for experiment in asked}
    findings = [one for one in whole if one.name in names]
    if not findings:
        raise TaskError(f"--only {only}: none of these claims is tested on {plan.family.name}; see docs/claims.md")
    if as_json:
        typer.echo(ledger_as_json(findings, plan.family), nl=False)
    else:
        print_table(shown.HEADER, shown.rows(findings), whole=1)
        typer.echo(shown.counts(findings))
        for line in shown.next_steps(findings):
            typer.echo(line)
        if others := left_out(asked, plan):
            kind = "models of yours (--models)" if plan.family.trained_here else "nano models"
            typer.echo(f"tested on {kind} only: {', '.join(others)}")
    if wanted or (results / plan.family.name).is_dir():
        page = shown.write(results, plan.family.name, whole, ledger_as_json(whole, plan.family))
        typer.echo(f"report: {page}", err=as_json)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _data(data_dir: Path | None) -> Path | None:
    """The data folder, also for the commands that are run."""
    if data_dir is not None:
        if not data_dir.is_dir():
            raise TaskError(f"--data-dir {data_dir}: no such folder; name one with data sets (docs/data.md)")
        os.environ["HARNESS_DATA"] = str(data_dir.resolve())
    named = os.environ.get("HARNESS_DATA")
    return None if not named else Path(named)


def _command(results: Path, models: Path | None, data_dir: Path | None) -> list[str]:
    """The call that runs what is missing."""
    words = ["harness", "claims", "--run"] if models is None else ["harness", "claims", "--models", str(models)]
    if results != Path("reproduction"):
        words += ["--results", str(results)]
    return words if data_dir is None else [*words, "--data-dir", str(data_dir)]


def _print_jobs(jobs: Sequence[Job]) -> None:
    rows = [[job.name, *_minutes(job), shlex.join(job.command)] for job in jobs]
    print_table(["step", "minutes", "so far", "command"], rows)
    took = sum(job.seconds / 60 for job in jobs if job.done)
    left = sum(job.minutes for job in jobs if not job.done)
    typer.echo(f"{len(jobs)} commands: {took:.0f} minutes taken, about {left:.0f} left on two cores")


def _minutes(job: Job) -> tuple[str, str]:
    return (f"{job.seconds / 60:.1f}", "taken") if job.done else (f"{job.minutes:g}", "expected")
