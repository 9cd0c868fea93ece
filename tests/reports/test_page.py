"""`report.md` and `report.html`: the numbers, the escaping, nothing loaded, equal bytes. Not covered: how it looks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from harness.records import Run, RunError, spec_hash
from reports import frames, packs, paper
from reports.page import write_report
from reports.render import sections, summary_table
from reports.site import write_site
from reports.texts import visible

lxml_html = pytest.importorskip("lxml.html")


def html_of(run: Run) -> Any:
    write_report(run)
    return lxml_html.document_fromstring((run.path / "report.html").read_text(encoding="utf-8"))


def text(element: Any) -> str:
    return " ".join(element.text_content().split())


def test_summary_has_the_runs_numbers_and_the_reports(run: Run) -> None:
    rows = {row.task: row for row in summary_table(run).rows}
    assert list(rows) == ["humaneval-chat", "gsm8k-chat", "mmlu"]  # the order of the spec
    gsm8k = rows["gsm8k-chat"]
    estimate = run.results["gsm8k-chat"].metrics["accuracy"]
    assert (gsm8k.score.value, gsm8k.score.low, gsm8k.score.high) == (
        100 * estimate.value,
        100 * estimate.low,
        100 * estimate.high,
    )
    assert (gsm8k.n, gsm8k.items, gsm8k.score.value) == (40, 1319, 30.0)
    assert gsm8k.unextracted == run.results["gsm8k-chat"].outcomes["unextracted"] > 0
    assert rows["humaneval-chat"].timeouts == 100 * 3 / rows["humaneval-chat"].n and gsm8k.timeouts == 0
    assert [cell.value for cell in rows["mmlu"].qwen] == [44.6, 58.2, 66.3] and rows["mmlu"].column == "Table 2, MMLU"
    assert [cell.model for cell in gsm8k.qwen] == ["Qwen-Chat"] * 3
    assert rows["mmlu"].other == paper.PaperRow("Baichuan2", "13B", 59.5)  # 20B and 70B are left out


def test_terminal_rows_fit_their_header(run: Run) -> None:
    summary = summary_table(run)
    assert {len(cells) for cells in summary.cells()} == {len(summary.header)}
    assert summary.cells()[1][:7] == (*("gsm8k-chat", "accuracy", "40 of 1,319", "30.0 %", "18.1 – 45.4", "8", "0.0"),)


def footnotes(run: Run, task: str) -> str:
    summary = summary_table(run)
    row = next(row for row in summary.rows if row.task == task)
    return " ".join(summary.footnotes[number - 1] for number in row.notes)


def test_footnotes_name_every_difference(run: Run) -> None:
    assert "40 of 1,319 items (limit 40)" in footnotes(run, "gsm8k-chat")
    assert "40 of 14,042 items (filter subject=astronomy,anatomy)" in footnotes(run, "mmlu")
    for task in run.spec["tasks"]:
        assert "Quantised weights (Q4_K_M)" in footnotes(run, task)
        assert "Another model: this run is of qwen2.5-coder-0.5b-instruct" in footnotes(run, task)
        assert "Not the report's protocol" not in footnotes(run, task)
    assert "60.1" in footnotes(run, "gsm8k-chat") and "60.1" not in footnotes(run, "mmlu")
    run.spec["tasks"]["mmlu"]["shots"] = 0
    assert "Not the report's protocol: 0-shot, base here, 5-shot, base in Table 2" in footnotes(run, "mmlu")


def test_the_reports_own_model_in_full_has_no_such_footnote(run: Run) -> None:
    run.spec["model"] |= {"name": "Qwen/Qwen-7B", "quantisation": None}
    run.spec["tasks"]["mmlu"] |= {"items": 40, "filter": {}}
    assert not re.search("Quantised|Another|Only", footnotes(run, "mmlu"))
    assert "Another model" in footnotes(run, "gsm8k-chat")  # a base model beside chat rows


def test_relatives_of_the_reports_model_are_known_by_their_names(run: Run) -> None:
    run.spec["tasks"]["mmlu"]["report"] = {"table": "table_10", "column": "HumanEval"}
    for name, another in (("Code-Qwen-7B-Chat", False), ("Qwen/Code-Qwen-14B-Chat", False), ("Qwen-7B-Chat", True)):
        run.spec["model"]["name"] = name
        assert ("Another model" in footnotes(run, "mmlu")) is another, name


def test_a_task_whose_metric_no_sample_has_is_on_a_page_of_several_runs(measured_run: Run, run: Run) -> None:
    path = measured_run.path / "results.json"
    whole = json.loads(path.read_text())
    metrics = whole["tasks"]["tools"]["metrics"]
    whole["tasks"]["tools"]["metrics"] = {name: its for name, its in metrics.items() if "accuracy" not in name}
    whole["tasks"]["tools"]["metrics"]["rouge (micro)"] = metrics["rouge"]
    path.write_text(json.dumps(whole))
    lacking = Run(measured_run.path)
    found = frames.results({"a": lacking, "b": run}).set_index(["run", "task", "part", "name"])["kind"].sort_index()
    assert found["a", "tools"].loc["metric"].to_dict() == {"rouge": "mean"}
    assert found["a", "tools", "measure", "rouge (micro)"] == "mean"
    write_site(measured_run.path / "both.html", [lacking, run])
    shown = f"{lacking.results['tools'].metrics['rouge'].value:.3f} ["
    assert shown in (measured_run.path / "both.html").read_text()


def test_a_task_without_a_column_says_so(run: Run) -> None:
    run.spec["tasks"]["mmlu"]["report"] = None
    row = summary_table(run).rows[2]
    assert row.qwen == () and row.column is None and "no number for this protocol" in footnotes(run, "mmlu")


def test_page_shows_the_table(run: Run) -> None:
    document = html_of(run)
    rows = document.xpath("//table[@class='scores']/tbody/tr")
    assert len(rows) == 3
    cells = [text(cell) for cell in rows[1].xpath("./th|./td")]
    assert cells[0].startswith("gsm8k-chat [")
    assert cells[1:7] == ["accuracy", "40 of 1,319", "30.0 %", "18.1 – 45.4", "8", "0.0"]
    assert cells[7:11] == ["Table 5, GSM8K 0-shot", "27.8", "50.3", "60.1"]
    for link in document.xpath("//a[@href]"):  # footnotes and parts are where the links say
        assert len(document.xpath(f"//*[@id='{link.get('href')[1:].partition('?')[0]}']")) == 1
    assert spec_hash(run.spec) in text(document.xpath("//header")[0])
    assert "Q4_K_M" in text(document.xpath("//header")[0])
    assert json.loads(document.xpath("//section[@id='spec']//pre")[0].text) == run.spec


def test_page_shows_outcomes_groups_and_environment(run: Run) -> None:
    document = html_of(run)
    sections_ = document.xpath("//section[starts-with(@id, 'task-')]")
    assert "timeout3 7.5 %" in text(sections_[0])
    folded = sections_[2].xpath("./details[not(@class)][not(@open)]")
    assert [len(table.xpath(".//tbody/tr")) for table in folded] == [15, 15]  # scores, causes
    environment = text(document.xpath("//section[@id='environment']")[0])
    assert all(pair in environment for pair in ("memory.total_gb8", "package-291.29", "tiernamespaces"))


def samples_of(document: Any, key: str) -> list[dict[str, Any]]:
    """What the page's data hold, unpacked by the standard library."""
    chunks = document.xpath(f"//script[@type='application/octet-stream'][starts-with(@id, '{key}-')]")
    found: list[dict[str, Any]] = []
    for chunk in chunks[1:]:
        found += json.loads(zlib.decompress(base64.b64decode(chunk.text)))
    return found


def test_every_sample_is_in_the_page(run: Run) -> None:
    document = html_of(run)
    heads = json.loads(document.xpath("//script[@id='tasks']")[0].text)
    assert [(head["task"], head["n"]) for head in heads] == [(task, 40) for task in run.spec["tasks"]]
    for head in heads:
        records = list(run.records(head["task"]))
        shown = samples_of(document, head["key"])
        assert [sample["prompt"] for sample in shown] == [record.prompt for record in records]
        assert [sample["gold"] for sample in shown] == [record.gold for record in records]
        packed = document.xpath(f"//script[@id='{head['key']}-index']")[0].text
        index = json.loads(zlib.decompress(base64.b64decode(packed)))
        assert index["id"] == [record.id for record in records]
        right = head["cause"].index("right")
        assert [cause == right for cause in index["cause"]] == [record.correct for record in records]


def test_long_tasks_are_in_chunks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "CHUNK", 7)
    document = html_of(run)
    assert len(document.xpath("//script[starts-with(@id, 's2-')]")) == 1 + 6
    assert [sample["gold"] for sample in samples_of(document, "s2")] == [str(i) for i in range(40)]


def test_model_text_is_text(run: Run) -> None:
    """Markup cannot get out of the data; controls and direction marks come out as characters."""
    document = html_of(run)
    assert document.xpath("//img") == [] and len(document.xpath("//h1")) == 1
    assert {script.get("type") for script in document.xpath("//script")} == {
        *("application/json", "application/octet-stream", None),
    }
    assert len(document.xpath("//script[not(@type)]")) == 1
    assert not [name for element in document.iter() for name in element.attrib if name.startswith("on")]
    shown = samples_of(document, "s0")[0]["response"]
    assert "<script>alert(1)</script>" in shown and "{{ 7*7 }} &amp; NUL ␀ ESC ␛[31m" in shown
    assert "⟨U+202E⟩abc⟨U+202C⟩ ⟨U+2066⟩x⟨U+2069⟩ BOM ⟨U+FEFF⟩" in shown
    source = (run.path / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ufeff]", source)
    assert samples_of(document, "s0")[0]["answer"] == "0<b>"
    assert samples_of(document, "s2")[0]["logprobs"] == {"A": -0.5, "B": -1.25, "C": -3.0, "D": -4.0}


def test_a_group_with_markup_in_its_name(run: Run) -> None:
    """The names of groups and causes are in a script element as JSON: nothing ends it."""
    database = sqlite3.connect(run.path / "samples.sqlite")
    with database:
        database.execute("UPDATE samples SET \"group\" = '</script><script>alert(1)</script>' WHERE task = 'mmlu'")
    database.close()
    document = html_of(run)
    assert len(document.xpath("//script[not(@type)]")) == 1
    assert json.loads(document.xpath("//script[@id='tasks']")[0].text)[2]["group"] == [
        "</script><script>alert(1)</script>"
    ]


def test_nothing_is_loaded(run: Run) -> None:
    document = html_of(run)
    for element in document.iter():
        for name, value in element.attrib.items():
            if name in ("src", "href", "srcset", "data", "action", "xlink:href") or name.endswith("}href"):
                assert value.startswith("#"), (element.tag, name, value)
    assert document.xpath("//link|//iframe|//object|//base|//form[@action]") == []
    styles = " ".join(style.text or "" for style in document.xpath("//style"))
    assert "@import" not in styles and not re.search(r"url\((?!#)", styles)
    policy = document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    assert policy.startswith("default-src 'none'")


def test_tables_can_be_read_aloud(run: Run) -> None:
    document = html_of(run)
    for table in document.xpath("//table"):
        assert table.xpath("./caption")
    assert not document.xpath("//th[not(@scope)]")
    ids = document.xpath("//@id")
    assert len(ids) == len(set(ids))
    assert document.xpath("//*[local-name()='svg']/@role") == ["img"]


def test_plot_has_our_points_and_the_reports(run: Run) -> None:
    svg = html_of(run).xpath("//*[local-name()='svg']")[0]
    words = text(svg)
    assert "this run, 95 % interval" in words and "report, 14B" in words and "humaneval-chat" in words
    source = lxml_html.tostring(svg, encoding="unicode")
    assert "var(--accent)" in source and "#0" not in re.sub(r'"#\w+"|url\(#\w+\)', "", source)


def test_equal_runs_give_equal_bytes(run: Run) -> None:
    """Also in another process: hash seeds and counters must not reach the page."""
    write_report(run)
    first = [(run.path / name).read_bytes() for name in ("report.md", "report.html")]
    program = (
        "import sys; from harness.records import Run; from reports.page import write_report; "
        "write_report(Run(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", program, str(run.path)], check=True, cwd=Path(__file__).parents[2])
    assert first == [(run.path / name).read_bytes() for name in ("report.md", "report.html")]


def test_markdown_has_the_same_table(run: Run) -> None:
    write_report(run)
    lines = (run.path / "report.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    summary = summary_table(run)
    assert tuple(table[0]) == summary.header
    assert [tuple(row) for row in table[2:5]] == summary.cells()
    for number, note in enumerate(summary.footnotes, 1):
        assert any(line.startswith(f"{number}. {note[:20]}") for line in lines)
    assert "### machine" in lines and "### packages" not in lines


def test_further_measures_sets_and_groups_are_shown(measured_run: Run) -> None:
    """As lines of the table, beside the metric of the task's section, and as tables there; also in Markdown."""
    entry = measured_run.results["tools"]
    macro, micro = entry.metrics["accuracy"], entry.metrics["accuracy (micro)"]
    lines = summary_table(measured_run).cells()
    assert [cells[:2] for cells in lines] == [
        *(("tools", "accuracy"), ("", "accuracy (micro)"), ("", "rouge"), ("", "false positives"), ("", "loss")),
    ]
    assert lines[0][3] == f"{100 * macro.value:.1f} %" != lines[1][3] == f"{100 * micro.value:.1f} %"
    assert [cells[2:4] for cells in lines[2:]] == [("40", "0.500"), ("20", "40.0 %"), ("40", "7.00")]
    assert {len(cells) for cells in lines} == {len(summary_table(measured_run).header)}

    document = html_of(measured_run)
    table = document.xpath("//table[@class='scores']/tbody/tr")
    assert [[text(cell) for cell in row.xpath("./td")][1:4] for row in table[1:]] == [
        [cells[1], cells[2], cells[3]] for cells in lines[1:]
    ]
    section = document.xpath("//section[@id='task-1']")[0]
    assert "rouge 0.500 (" in text(section.xpath("./p")[0])
    sets, groups = section.xpath("./details[not(@class)]")
    assert text(sets.xpath("./summary")[0]) == "2 sets" and text(groups.xpath("./summary")[0]) == "4 groups"
    assert [text(cell) for cell in sets.xpath(".//tbody/tr[1]/*")][:3] == ["hard", "20", "26.1 %"]

    markdown = (measured_run.path / "report.md").read_text()
    assert "## tools: accuracy by set" in markdown and "## tools: accuracy by group" in markdown
    assert "| hard | 20 | 26.1 % |" in markdown


def test_a_score_that_is_no_share_is_not_drawn_in_per_cent(measured_run: Run) -> None:
    path = measured_run.path
    spec = json.loads((path / "spec.json").read_text())
    spec["tasks"]["tools"]["metric"] = "loss"
    (path / "spec.json").write_text(json.dumps(spec))
    row = summary_table(Run(path)).rows[0]
    assert row.score.text == "7.00" and row.score.value == pytest.approx(7.0)
    document = html_of(Run(path))
    assert not document.xpath("//*[local-name()='svg']")
    assert "loss 7.00" in text(document.xpath("//section[@id='task-1']/p")[0])


def test_little_is_needed(bare_run: Run) -> None:
    document = html_of(bare_run)
    assert "no column 'X'" in text(document.xpath("//ol")[0])
    assert "Not recorded" in text(document.xpath("//section[@id='environment']")[0])
    assert "mine $x$" in text(document.xpath("//*[local-name()='svg']")[0])


def test_an_unfinished_run_is_one_line(run: Run) -> None:
    (run.path / "results.json").unlink()
    with pytest.raises(RunError, match="unfinished"):
        write_report(run)
    assert not (run.path / "report.html").exists()


def test_environment_is_flattened() -> None:
    tree = {"seconds": 1.5, "machine": {"memory": {"gb": 8}}, "empty": {}, "finished": None, "flags": ["a", 1]}
    assert sections(tree) == {
        "general": [("seconds", "1.5"), ("finished", "–"), ("flags", "a, 1")],
        "machine": [("memory.gb", "8")],
    }


def test_visible_keeps_what_is_harmless() -> None:
    assert visible("tab\tline\n– 中文 é 👩‍💻") == "tab\tline\n– 中文 é 👩‍💻"
    assert visible("\r\ud800\x85") == "␍⟨U+D800⟩⟨U+0085⟩"


def test_long_text_keeps_both_ends() -> None:
    cut = packs.shortened("a" * 30_000 + "end")
    assert cut.startswith("aaa") and cut.endswith("end") and "10,003 characters left out" in cut
    assert packs.shortened("a" * packs.LONGEST) == "a" * packs.LONGEST


PICTURE = {kind: base64.b64encode(data).decode() for kind, data in (
    ("png", b"\x89PNG\r\n\x1a\n...."), ("jpeg", b"\xff\xd8\xff\xe0...."), ("gif", b"GIF89a...."), ("other", b"<svg>")
)}  # fmt: skip


def test_pictures_have_their_type_and_nothing_else_passes_for_one(run: Run) -> None:
    shown = packs.pictures({"images": [*PICTURE.values(), 'x" onerror="', 3, "a b"]})
    assert shown == [f"data:image/{kind};base64,{PICTURE[kind]}" for kind in ("png", "jpeg", "gif")]
    assert packs.pictures({}) == []
    database = sqlite3.connect(run.path / "samples.sqlite")
    with database:
        detail = json.dumps({"images": [PICTURE["jpeg"]], "kept": 1})
        database.execute("UPDATE samples SET detail = ? WHERE task = 'mmlu'", (detail,))
    database.close()
    sample = samples_of(html_of(run), "s2")[0]
    assert sample["pictures"] == [f"data:image/jpeg;base64,{PICTURE['jpeg']}"]
    assert json.loads(sample["detail"]) == {"kept": 1}


def test_failures_lead_to_their_samples(run: Run) -> None:
    document = html_of(run)
    rows = document.xpath("//section[@id='task-2']//table[@class='causes'][1]/tbody/tr")
    assert [text(cell) for cell in rows[0].xpath("./*")][:2] == ["all", "40"]
    links = {link.text: link.get("href") for link in rows[0].xpath(".//a")}
    assert links["12"] == "#samples?task=s1&cause=right"
    by_subject = document.xpath("//section[@id='task-3']//details//table[@class='causes']/tbody/tr")
    assert len(by_subject) == 15 and "group=subject+0" in by_subject[0].xpath(".//a/@href")[0]
    assert "## gsm8k-chat: right, and why not" in (run.path / "report.md").read_text()


def test_the_script_is_the_one_that_the_policy_names(run: Run) -> None:
    document = html_of(run)
    script = document.xpath("//script[not(@type)]")[0].text
    policy = document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "form-action 'none'; base-uri 'none'"
    )
    assert "innerHTML" not in script and "eval(" not in script
