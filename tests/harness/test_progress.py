"""What a log says of a run's progress where there is no terminal."""

from __future__ import annotations

import time

from harness import progress
from harness.progress import Bars, said_when_slow


def test_a_line_now_and_then_before_the_first_sample_too(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.05)
    with Bars() as bars:
        bars.begin("sums", 2, 6)
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and lines[0].startswith("sums 2/6; 0 s, 0.0 samples/s") and "left" not in lines[0]


def test_a_step_is_said_only_where_it_takes_long(monkeypatch, capsys):
    with said_when_slow("writing"):
        pass
    monkeypatch.setattr(progress, "_SOON", 0.01)
    with said_when_slow("still writing"):
        time.sleep(0.5)
    assert capsys.readouterr().err == "still writing\n"


def test_time_left_is_no_guess_while_nothing_ends(capsys):
    bars = Bars(quiet=True)
    bars.begin("texts", 0, 12)
    for ended in (4, 0, 1):
        for _ in range(ended):
            bars.judged("texts")
        bars._line()
    lines = capsys.readouterr().err.splitlines()
    assert ["left" in line for line in lines] == [True, False, True]


def test_the_last_sample_is_said_at_once_and_time_left_is_no_guess_of_two(capsys):
    with Bars(quiet=True) as bars:
        bars.begin("sums", 0, 3)
        bars.begin("words", 0, 1)
        for task in ("sums", "words", "sums", "sums"):
            bars.judged(task)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in lines] == ["sums 1/3, words 1/1", "sums 3/3, words 1/1"]
    assert "left" not in "".join(lines)
