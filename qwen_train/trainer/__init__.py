"""Training of one module: what pretraining, SFT and the reward model share, and what PPO takes in parts.

    world = World()                                        # qwen_train.parallel: one process; join_world for torchrun's
    module = NextToken(decoder)                            # any nn.Module: module(**micro.inputs) -> sum of losses
    parallelize(module, decoder.model.layers, world, "bfloat16", compile=False)
    update = Update(module, Optimiser(learning_rate=2e-6, warmup_steps=1430, schedule="constant"), world)
    trainer = Trainer(update, batches, folder, steps=4000, seed=1, identity=recipe.identity,
                      changeable=recipe.changeable, smaller="read less at once", checkpoint_every=500)
    trainer.fit()                                          # goes on by itself where the folder has a checkpoint
    trainer.weights()                                      # {name: whole tensor on the CPU}

`batches(step) -> [Micro(inputs, count, tokens), ...]` are this process's micro-batches of that step, a pure function of
the step. The step's loss is sum of losses / sum of counts over all micro-batches and processes. `Update.step(micros,
learning_rate)` is one optimiser step without the loop (PPO holds one Update for the policy, one for the value model);
`Update.tensors()`, `.facts()` and `.restore()` are what a checkpoint of it needs (`Checkpoints.save / .load`).
bfloat16 over float32 weights: set `decoder.compute_dtype`. `next_token_loss(hidden, weight, targets)` never holds all
logits; `decoder.hidden(input_ids, layout)` is the model without its output matrix, and layouts are in qwen_model.layout
(`Documents(segments)`: packed rows in which each text reads only itself).
"""

from qwen_train.errors import Stopped
from qwen_train.trainer.checkpoint import Checkpoints
from qwen_train.trainer.loss import IGNORED, next_token_loss
from qwen_train.trainer.objective import NextToken
from qwen_train.trainer.settings import Guard, Optimiser, Section
from qwen_train.trainer.trainer import Check, Trainer
from qwen_train.trainer.update import Micro, Outcome, Update

__all__ = [
    "IGNORED",
    "Check",
    "Checkpoints",
    "Guard",
    "Micro",
    "NextToken",
    "Optimiser",
    "Outcome",
    "Section",
    "Stopped",
    "Trainer",
    "Update",
    "next_token_loss",
]
