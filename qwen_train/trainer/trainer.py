"""The training loop: steps, checkpoints, checks, logs, and an exact way back after any stop.

Everything that a step depends on is a function of (seed, step, weights): its batch by `batches(step)`, its dropout by a
seed set anew at each step. So a checkpoint holds weights, moments and a few numbers, and nothing is replayed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.records import difference
from qwen_train.errors import Stopped, TrainError
from qwen_train.parallel import whole
from qwen_train.trainer.checkpoint import Checkpoints, read_facts
from qwen_train.trainer.logs import Log
from qwen_train.trainer.progress import Speedometer, peak_memory
from qwen_train.trainer.signals import Watch
from qwen_train.trainer.update import Micro, Outcome, Update


@dataclass(frozen=True)
class Check:
    """What is measured every `every` steps and at the end, after a checkpoint of that step was begun."""

    name: str
    every: int
    measure: Callable[[int], Mapping[str, float]]
    """Called with the step by every process; what the first returns is written."""


class Trainer:
    """Takes an `Update` through `steps` steps in a run folder; a folder that has checkpoints is gone on with."""

    def __init__(
        self,
        update: Update,
        batches: Callable[[int], Sequence[Micro]],
        folder: Path,
        *,
        steps: int,
        seed: int,
        identity: Mapping[str, Any],
        changeable: Mapping[str, Any],
        smaller: str,
        checkpoint_every: int,
        keep: int = 2,
        keep_every: int | None = None,
        checks: Sequence[Check] = (),
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
    ) -> None:
        """`batches(step)` are this process's micro-batches of a step, counted from 0: a pure function.

        `identity` is what makes the run this run (recipe, data), plain JSON: another one is refused on resuming.
        `changeable` may be another then, such as a lower rate after steps that failed: the change is said and logged.
        `smaller` is the advice where memory runs out.
        `flops_per_token` and `peak_flops` (per process, 1/s) give the MFU. Raises TrainError.
        """
        self.update, self.batches, self.folder, self.steps, self.seed = update, batches, folder, steps, seed
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.changeable: dict[str, Any] = json.loads(json.dumps(changeable))
        self.smaller = smaller
        self.checkpoint_every, self.checks = checkpoint_every, checks
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.world = update.world
        self.tokens = 0
        self.checkpoints = Checkpoints(folder / "checkpoints", self.world, keep=keep, forever_every=keep_every)
        self.step = self._resume()

    def fit(self) -> None:
        """Train to the end. Raises Stopped after Ctrl-C or SIGTERM, TrainError where training cannot go on."""
        first = self.world.first
        with Watch() as watch, Speedometer(self.step, self.steps, shown=first) as meter:
            if 0 < self.step < self.steps:
                changed = f"; changed: {self._changed}" if self._changed else ""
                meter.say(f"going on from the checkpoint of step {self.step}{changed}")
            log = Log(self.folder, self.step) if first else None
            try:
                if log is not None and self._changed:
                    log.write(self.step, "changed", {"what": self._changed, "settings": self.changeable})
                if self.step:  # a stop may have come between a checkpoint and the checks of its step
                    self._check(log, meter, resumed=True)
                while self.step < self.steps:
                    begin = time.perf_counter()
                    outcome = self._take()
                    self._tell(log, meter, outcome, time.perf_counter() - begin)
                    stop = self.world.largest(watch.number)
                    if stop or self.step % self.checkpoint_every == 0 or self.step == self.steps:
                        self.save()
                    self.checkpoints.poll()
                    if stop:
                        self.checkpoints.wait()
                        raise Stopped(int(stop), self.step)
                    self._check(log, meter)
                self.checkpoints.wait()
            finally:
                if log is not None:
                    log.__exit__(None, None, None)

    def save(self) -> None:
        """Begin a checkpoint of the step just taken."""
        facts = {
            "identity": self.identity,
            "changeable": self.changeable,
            "tokens": self.tokens,
            "update": self.update.facts(),
        }
        self.checkpoints.save(self.step, dict(self.update.tensors()), facts)

    def weights(self) -> dict[str, Tensor]:
        """All weights, whole, on the CPU; every process must ask."""
        return {name: whole(parameter) for name, parameter in self.update.module.named_parameters()}

    def _resume(self) -> int:
        self._changed = ""
        steps = self.checkpoints.steps()
        if not steps:
            return 0
        facts = read_facts(self.checkpoints.path(steps[-1]))
        self._changed = difference(facts.get("changeable", {}), self.changeable) or ""
        differs = difference(facts["identity"], self.identity) or (self._changed if steps[-1] >= self.steps else None)
        if differs:
            raise TrainError(
                f"{self.folder}: begun with another recipe: {differs}; set it back, or name another folder by --out"
            )
        facts = self.checkpoints.load(steps[-1], dict(self.update.tensors()))
        self.update.restore(facts["update"])
        self.tokens = facts["tokens"]
        return steps[-1]

    def _take(self) -> Outcome:
        torch.manual_seed(hash((self.seed, self.step, self.world.rank)))
        self.update.module.train()
        micros = self.batches(self.step)
        rate = self.update.settings.rate(self.step, self.steps)
        try:
            outcome = self.update.step(micros, rate)
        except RuntimeError as error:
            self._explain(error, f", {max(m.tokens for m in micros):,} tokens at once")
            raise
        if self.update.in_a_row >= self.update.guard.patience:
            self.checkpoints.wait()  # what is being written is from before too
            path = self._keep_batch(micros)
            raise TrainError(
                f"{self.update.in_a_row} steps in a row would have broken the model, the last by {outcome.skipped};"
                f" its batch is in {path}, and the checkpoints are from before: lower optimiser.learning_rate, or mend"
                " the data"
            )
        self.step += 1
        self.tokens += outcome.tokens
        return outcome

    def _explain(self, error: RuntimeError, at: str = "") -> None:
        """Raises TrainError with what to do where memory ran out."""
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise TrainError(f"out of memory in step {self.step + 1}{at}: {self.smaller}") from error

    def _keep_batch(self, micros: Sequence[Micro]) -> Path:
        from safetensors.torch import save_file

        path = self.folder / f"bad-batch-{self.step + 1:08}-{self.world.rank}.safetensors"
        inputs = {
            f"{number}.{name}": tensor.clone(memory_format=torch.contiguous_format)  # two views of one are refused
            for number, micro in enumerate(micros)
            for name, tensor in _tensors(micro.inputs)
        }
        save_file(inputs, str(path))
        return path

    def _tell(self, log: Log | None, meter: Speedometer, outcome: Outcome, seconds: float) -> None:
        speed = outcome.tokens / seconds
        values: dict[str, Any] = {
            "loss": outcome.loss,
            "grad_norm": outcome.grad_norm,
            "learning_rate": self.update.settings.rate(self.step - 1, self.steps),
            "tokens": self.tokens,
            "tokens_per_second": speed,
            "memory_mb": peak_memory(self.world.device),
        }
        text = f"loss {outcome.loss:.3f}, norm {outcome.grad_norm:.2f}, {speed:,.0f} tokens/s"
        if self.flops_per_token and self.peak_flops:
            values["mfu"] = self.flops_per_token * speed / (self.peak_flops * self.world.size)
            text += f", MFU {100 * values['mfu']:.0f} %"
        text += f", {values['memory_mb']:,.0f} MB"
        if outcome.skipped is not None:
            values["skipped"] = outcome.skipped
            meter.say(f"step {self.step} skipped: {outcome.skipped}")
        if log is not None:
            log.write(self.step, "train", values)
        meter.show(self.step, text)

    def _check(self, log: Log | None, meter: Speedometer, *, resumed: bool = False) -> None:
        for check in self.checks:
            if self.step % check.every and self.step != self.steps:
                continue
            if resumed and self.world.total(float(log is not None and check.name in log.resumed_with))[0]:
                continue
            self.update.module.eval()
            values = check.measure(self.step)
            meter.say(f"step {self.step}, {check.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
            if log is not None:
                log.write(self.step, check.name, values)


def _tensors(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors among a module's inputs, and those of a packed row."""
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            yield name, value
        elif is_dataclass(value):
            yield from ((f"{name}.{part}", tensor) for part, tensor in _tensors(vars(value)))
