"""What the documentation names is there, and every command on it is one that the program takes."""

from __future__ import annotations

import re

import pytest

from tests.commands import ROOT, accept
from tests.harness.pages import PAGES, commands, files

WITH_COMMANDS = [page for page in PAGES if commands(page) and page.name != "add-a-task.md"]
"""But for the page that test_add_a_task.py runs word for word: its tasks are made on the way."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_exist(page):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")):
        file = ROOT / path
        assert file.is_file(), f"{page.name} names {path}"
        assert not name or f"def {name}(" in file.read_text(encoding="utf-8"), f"{page.name} names {path}::{name}"


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_taken_by_their_programs(page, tmp_path, monkeypatch):
    """Parsed by the real command lines, with the page's own files; nothing runs."""
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
        for model in re.findall(r"models/[\w.-]+", text):
            (tmp_path / model).mkdir(parents=True, exist_ok=True)
    if (tmp_path / "run.yaml").is_file():  # a run folder keeps it
        (tmp_path / "runs" / "mine").mkdir(parents=True)
        (tmp_path / "runs" / "mine" / "run.yaml").write_text(files(page)["run.yaml"])
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        try:
            accept(command.words, whole=command.fenced or page.name == "index.md")
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{page.name}: {command.text}: {error!r}") from error
