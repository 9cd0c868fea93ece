"""The page in a browser: no request, no overflow on a phone, by keyboard, quick with all of MMLU. Skipped without
Chromium or playwright; what does not need a browser is tested in test_page.py."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.pairing import compare
from harness.records import Run, SampleRecord
from reports.beside import beside
from reports.cells import tables_of
from reports.page import write_report
from reports.site import write_site
from tests.reports.conftest import ENVIRONMENT, SPEC, records_of, write_run
from tests.reports.sweeps import ROWS, write_sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WHOLE = 14_042
"""Items of MMLU."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here; apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here; pip install qwen-harness[dev]")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page from disk, and everything that it asked for or complained of."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, height: int = 900, state: str = "") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.goto(f"{path.as_uri()}{state}")
        self.page.wait_for_selector("#list details")

    def status(self, pattern: str) -> str:
        """The line above the list, once it is so. (The page's policy forbids `wait_for_function`.)"""
        self.page.locator("#status", has_text=re.compile(pattern)).wait_for()
        return str(self.page.inner_text("#status"))

    def overflow(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def other(task: str) -> list[SampleRecord]:
    """The samples of a second model: three more in ten are right, every tenth is lost."""
    right = [record.position % 10 in (0, 3, 4, 7) for record in records_of(task)]
    return [
        replace(record, correct=its, outcome="correct" if its else "wrong", answer=f"second {record.position}")
        for record, its in zip(records_of(task), right, strict=True)
    ]


@pytest.fixture
def site(tmp_path: Path, run: Run) -> Path:
    second = write_run(tmp_path / "second", SPEC, ENVIRONMENT, other)
    sweep = write_sweep(tmp_path / "sweep", (*ROWS, "<b>ntk,2048,6,1.2,3.3,3.0,3.6,1,10"))
    tables = [beside([run.path, second.path], name) for name in tables_of([run, second])]
    write_site(tmp_path / "site.html", [run, second], [compare(run, second)], tables, [sweep])
    return tmp_path / "site.html"


def test_nothing_is_asked_of_the_network_and_nothing_of_a_model_runs(browser: Any, run: Run) -> None:
    write_report(run)
    opened = Opened(browser, run.path / "report.html")
    for summary in opened.page.locator("#list summary").all()[:5]:
        summary.click()
    opened.page.wait_for_selector("#list pre.response")
    assert "<script>alert(1)</script>" in opened.page.inner_text("#list pre.response >> nth=0")
    assert opened.page.locator("#list script, #list img, #list h1").count() == 0
    opened.page.evaluate("fetch('http://127.0.0.1:9/x').catch(() => {})")
    assert opened.requests == [(run.path / "report.html").as_uri()], "and the policy stops what would be asked for"
    assert [line for line in opened.said if "Content Security Policy" not in line and "Refused" not in line] == []


def test_samples_are_filtered_and_searched(browser: Any, run: Run) -> None:
    write_report(run)
    opened = Opened(browser, run.path / "report.html")
    assert opened.status("of 40 samples") == "1 – 40 of 40 samples that pass, 40 in all"
    opened.page.select_option("select[name=task]", label="gsm8k-chat")
    opened.page.select_option("select[name=cause]", "right")
    assert opened.status("of 12 samples")
    opened.page.select_option("select[name=cause]", "not right")
    assert opened.status("of 28 samples")
    opened.page.fill("input[name=q]", "question 17 of gsm8k")
    assert opened.status("of 1 samples")
    opened.page.fill("input[name=q]", "nothing like it")
    assert opened.status("no sample passes")
    opened.page.click("#all")
    assert opened.status("of 40 samples")
    opened.page.select_option("select[name=task]", label="mmlu")
    opened.page.select_option("select[name=group]", "subject 3")
    assert opened.status("of 3 samples")
    assert "group=subject+3" in opened.page.url, "the address is the state: it can be kept and sent"


def test_a_failure_is_one_click_from_its_samples(browser: Any, run: Run) -> None:
    write_report(run)
    opened = Opened(browser, run.path / "report.html")
    link = opened.page.locator("#task-1 table.causes >> nth=0 >> a").nth(1)
    number = link.inner_text()
    assert number == "3" and "time-out" in link.get_attribute("href")
    link.click()
    assert opened.status("of 3 samples")
    assert {"time-out (timeout)"} == set(opened.page.locator("#list summary .wrong").all_inner_texts())


def test_a_page_of_two_runs_has_comparisons_flips_tables_and_curves(browser: Any, site: Path) -> None:
    opened = Opened(browser, site)
    assert opened.page.inner_text("h1") == "2 runs"
    shown = opened.page.locator("section > h2").all_inner_texts()
    assert {"Overview", "Comparisons", "Ablation", "Samples"} <= set(shown)
    assert any(title.startswith("Table 2:") for title in shown)
    assert (
        "<b>ntk" in opened.page.inner_text("#sweeps table >> nth=0") and opened.page.locator("#sweeps svg").count() == 2
    )
    opened.page.locator("#comparisons details summary", has_text=re.compile("gsm8k-chat: .* flipped")).click()
    flip = opened.page.locator("#comparisons details[open] tbody a").first
    id_ = flip.inner_text()
    flip.click()
    assert opened.status("of 1 samples")
    opened.page.wait_for_selector("#list pre.answer")
    assert "second" in opened.page.inner_text("#list pre.answer")
    opened.page.locator("#list a", has_text="demo").click()  # the same sample in the first run
    opened.page.locator("#list pre.answer", has_not_text="second").wait_for()
    assert opened.page.inner_text("#list summary bdi >> nth=0") == id_
    assert opened.requests == [site.as_uri()] and opened.said == []


def test_a_phone_needs_no_sideways_scrolling(browser: Any, site: Path) -> None:
    opened = Opened(browser, site, width=360, height=740)
    assert opened.overflow() <= 0
    opened.page.locator("#list summary").first.click()
    opened.page.wait_for_selector("#list pre.response")
    assert opened.overflow() <= 0
    assert all(
        box["height"] >= 32
        for box in [opened.page.locator(name).bounding_box() for name in ("#next", "select >> nth=0")]
    )


def test_by_keyboard(browser: Any, run: Run) -> None:
    """The first stop leads past everything to the samples; from there, fields, pages and samples follow in order."""
    write_report(run)
    opened = Opened(browser, run.path / "report.html")
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the samples"
    opened.page.keyboard.press("Enter")
    opened.page.locator("#samples-title:focus").wait_for()
    seen = []
    for _ in range(12):
        opened.page.keyboard.press("Tab")
        seen.append(opened.page.evaluate("document.activeElement.name || document.activeElement.tagName"))
        if seen[-1] == "SUMMARY":
            break
    assert seen[:2] == ["task", "cause"] and "q" in seen and seen[-1] == "SUMMARY"
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_selector("#list pre.prompt")


def many(task: str) -> list[SampleRecord]:
    """As many samples as MMLU has, each with five shots before its question, in 57 subjects."""
    shots = [f"Question: what of {i}?\nA. {i}\nB. {i + 1}\nC. {i + 2}\nD. none\nAnswer: A\n\n" * 5 for i in range(57)]
    model = records_of("mmlu")[1]
    return [
        replace(
            model,
            task=task,
            id=f"{task}/{i}",
            position=i,
            group=f"subject {i * 57 // WHOLE}",
            prompt=f"{shots[i * 57 // WHOLE]}Question: item {i} {i * 7919 % 104729:x}?\nAnswer:",
            correct=i % 3 == 0,
            outcome="correct" if i % 3 == 0 else "wrong",
        )
        for i in range(WHOLE)
    ]


@pytest.mark.slow
def test_all_of_mmlu_is_quick(browser: Any, tmp_path: Path) -> None:
    """No time is asserted but a generous one, which a page that drew 14,042 samples would not keep."""
    run = write_run(tmp_path / "whole", {**SPEC, "tasks": {"mmlu": SPEC["tasks"]["mmlu"]}}, ENVIRONMENT, many)
    write_report(run)
    page = run.path / "report.html"
    assert page.stat().st_size < 8_000_000
    begin = time.monotonic()
    opened = Opened(browser, page)
    ready = time.monotonic() - begin
    assert opened.page.locator("#list details").count() == 50
    begin = time.monotonic()
    opened.page.select_option("select[name=group]", "subject 56")
    opened.status("of 24[67] samples")
    filtered = time.monotonic() - begin
    opened.page.select_option("select[name=group]", "")
    begin = time.monotonic()
    opened.page.fill("input[name=q]", "item 14041 ")
    opened.status("of 1 samples")
    searched = time.monotonic() - begin
    print(
        f"{page.stat().st_size / 1e6:.1f} MB; ready {ready:.2f} s, filtered {filtered:.2f} s, searched {searched:.2f} s"
    )
    assert ready < 10 and filtered < 5 and searched < 20
