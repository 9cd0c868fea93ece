"""A timeout is tried again, alone, only where the machine may have been to blame."""

from __future__ import annotations

import threading

import pytest

from harness.sandbox import Policy, Result, Sandbox, runner
from harness.sandbox.gate import Gate


@pytest.mark.parametrize(
    ("wall", "busy", "tries"),
    [(9.0, True, 2), (9.0, False, 1), (1.1, True, 1)],
    ids=["shared its core", "nobody else there", "had its core"],
)
def test_when_a_timeout_is_tried_again(monkeypatch, wall, busy, tries):
    runs = []

    def run(self, source):
        runs.append(source)
        outcome = "timeout" if len(runs) == 1 else "ok"
        return Result(outcome=outcome, cpu_seconds=1.0, wall_seconds=wall, detail="why")

    monkeypatch.setattr(Sandbox, "_run", run)
    monkeypatch.setattr(runner.GATE, "busy", lambda: busy)
    result = Sandbox(Policy(), unsafe=True).run("x")
    assert len(runs) == tries
    assert (result.outcome, result.detail) == (("ok", "why; tried again alone") if tries == 2 else ("timeout", "why"))


def test_alone_means_alone():
    gate, inside, most_with_alone = Gate(), [], []

    def share():
        for _ in range(50):
            with gate.shared():
                inside.append(1)
                inside.pop()

    def own():
        for _ in range(20):
            with gate.alone():
                most_with_alone.append(len(inside))
                assert not gate._inside

    threads = [threading.Thread(target=work) for work in (share, share, own, own)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most_with_alone == [0] * 40
