"""The ledger of claims in print: a table on the terminal, `ledger.md`, and one page with every interval and curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.claims.findings import NOT_YET, VERDICTS, Effect, Finding, Outcome
from harness.records import write_atomic
from reports import ablation, paper
from reports.ablation_plots import Plot
from reports.plot import INK, plain
from reports.texts import cell, new_environment
from reports.texts import table as markdown_table

HEADER = ("claim", "report", "on", "effect (95 % interval)", "wanted", "seeds", "verdict")
DETAIL = ("test", "effect (95 % interval)", "unit", "wanted", "n", "seeds", "verdict")
SHOWN_WHY = 160
"""Characters of a reason on the terminal."""
_COLOURS = {"holds": "#17693a", "fails": "#ad2323", "undecided": "#a8450b", "not run": "#8a8a8a"}


def rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """A line per claim and subject, as HEADER: of several tests the one that decides."""
    lines: list[tuple[str, ...]] = []
    for one in findings:
        chief = deciding(one)
        lines.append(
            (
                ("? " if one.open else "") + one.name,
                _place(one),
                one.subject,
                number(chief.effect),
                chief.bound,
                f"{one.seeds}" if one.seeds >= one.wanted else f"{one.seeds} of {one.wanted}",
                one.verdict,
            )
        )
    return lines


def deciding(finding: Finding) -> Outcome:
    """The test that the verdict hangs on: the first with the claim's own verdict."""
    return next((one for one in finding.outcomes if one.verdict == finding.verdict), finding.outcomes[0])


def number(effect: Effect | None) -> str:
    """An effect with its interval."""
    if effect is None:
        return "–"
    if effect.low == effect.value == effect.high:
        return f"{effect.value:.3g}"
    return f"{effect.value:+.3f} ({effect.low:+.3f} – {effect.high:+.3f})"


def counts(findings: Sequence[Finding]) -> str:
    """How many hold, fail, are undecided and were not run."""
    found = Counter(one.verdict for one in findings)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS)


def next_steps(findings: Sequence[Finding]) -> list[str]:
    """A line for each claim that lacks something: the command that goes on, and what is in its way."""
    lines = []
    for one in findings:
        reasons = [outcome.why for outcome in one.outcomes if outcome.why]
        if reasons:
            why = next((reason for reason in reasons if not reason.startswith(NOT_YET)), NOT_YET)
            short = why if len(why) <= SHOWN_WHY else why[: SHOWN_WHY - 1] + "…"
            lines.append(f"{one.name} ({one.subject}): {short}: {one.command}")
    return lines


def write(folder: Path, family: str, findings: Sequence[Finding], as_json: str) -> Path:
    """ledger-FAMILY.md, .html and .json in a folder; returns the page. Equal findings give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"ledger-{family}.json", as_json)
    write_atomic(folder / f"ledger-{family}.md", markdown(family, findings))
    page = folder / f"ledger-{family}.html"
    template = new_environment().get_template("ledger.html.j2")
    text = template.render(
        family=family,
        header=HEADER,
        detail=DETAIL,
        counts=counts(findings),
        parts=[(title, list(zip(its, map(anchor, its), rows(its), strict=True))) for title, its in _parts(findings)],
        cells=[(one, anchor(one), _place(one), details(one), _effects(one)) for one in findings],
        sweeps=_sweeps(findings),
        sweep=_sweep,
    )
    write_atomic(page, text)
    return page


def markdown(family: str, findings: Sequence[Finding]) -> str:
    """The ledger as Markdown: a table, then every test of every claim."""
    lines = [f"# Does what the Qwen report says hold? ({cell(family)})", "", counts(findings), ""]
    for title, its in _parts(findings):
        lines += [f"## {title}", "", *markdown_table(HEADER, rows(its)), ""]
    for one in findings:
        lines += [f"### {cell(one.name)} on {cell(one.subject)}: {one.verdict}", "", cell(one.claim), ""]
        lines += [f"{cell(_place(one))}. {cell(one.question)}", "", *markdown_table(DETAIL, details(one)), ""]
        if reasons := [f"- {cell(outcome.says)}: {cell(outcome.why)}" for outcome in one.outcomes if outcome.why]:
            lines += [*reasons, ""]
        lines += [f"`{one.command}`", ""]
    return "\n".join(lines).rstrip() + "\n"


def details(finding: Finding) -> list[tuple[str, ...]]:
    """A line per test, as DETAIL."""
    return [
        (
            outcome.says,
            number(outcome.effect),
            outcome.unit,
            outcome.bound,
            f"{outcome.effect.n:,}" if outcome.effect else "–",
            str(outcome.effect.seeds) if outcome.effect else "–",
            outcome.verdict,
        )
        for outcome in finding.outcomes
    ]


def anchor(finding: Finding) -> str:
    """The name of its place on the page."""
    return f"{finding.name}-{finding.subject}".replace(" ", "-")


def _parts(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    parts = (("Claims of the report", False), ("Questions that the report leaves open", True))
    return [(title, its) for title, open_ in parts if (its := [one for one in findings if one.open is open_])]


def _place(finding: Finding) -> str:
    return finding.section if finding.table is None else f"{finding.section}, {paper.label(finding.table)}"


def _effects(finding: Finding) -> Any:
    """The intervals beside their bounds, as SVG; None where nothing was found."""
    outcomes = finding.outcomes
    if all(outcome.effect is None for outcome in outcomes):
        return None
    size = (6.8, 1.1 + 0.5 * len(outcomes))
    plot = Plot("effects", "", size, lambda figure, ink: _forest(figure, ink, outcomes))
    return plot.svg(f"plot-effects-{anchor(finding)}")


def _sweeps(findings: Sequence[Finding]) -> list[tuple[str, str, Any, ablation.Table]]:
    """(Anchor, caption, curves as SVG, table by length) of every sweep that a claim reads, once."""
    found = []
    for place in dict.fromkeys(place for one in findings for place in one.plots):
        folder = Path(place)
        curves = ablation.plots_of(folder)[0]
        caption = f"{folder.name} of {folder.parent.name}: {curves.caption}"
        found.append((_sweep(place), caption, curves.svg(f"plot-{_sweep(place)}"), ablation.tables(folder)[0]))
    return found


def _sweep(place: str) -> str:
    return "sweep-" + "-".join(Path(place).parts[-2:])


def _forest(figure: Any, colours: Mapping[str, str], outcomes: Sequence[Outcome]) -> None:
    axes = figure.add_subplot()
    for line, outcome in enumerate(outcomes):
        effect = outcome.effect
        for bound in outcome.bounds:
            axes.plot([bound, bound], [line - 0.35, line + 0.35], color=colours[INK], linewidth=1, linestyle=":")
        if effect is None:
            continue
        bars = [[effect.value - effect.low], [effect.high - effect.value]]
        axes.errorbar([effect.value], [line], xerr=bars, fmt="o", color=_COLOURS[outcome.verdict], capsize=3)
        axes.plot([one.value for one in outcome.each], [line + 0.25] * len(outcome.each), "|", color=colours[INK])
    axes.locator_params(axis="x", nbins=6)  # numbers like 0.00025 are wide
    axes.set_ylim(len(outcomes) - 0.5, -0.5)
    axes.set_yticks(range(len(outcomes)), [one.says for one in outcomes], parse_math=False)
    axes.set_xlabel("; ".join(dict.fromkeys(one.unit for one in outcomes)), parse_math=False)
    plain(axes, "x", colours)
