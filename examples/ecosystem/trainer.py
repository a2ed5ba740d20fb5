"""Hugging Face ``Trainer`` with a generated optimizer: ``python -m examples.ecosystem.trainer``.

The optimizer is made from the model and handed over, together with its schedule. Made from the model, it knows that
``Conv1D``, of which GPT-2 in ``transformers`` consists, stores inputs x outputs, and sees its weights transposed.
``Trainer(optimizer_cls_and_kwargs=(NAMO, {...}))`` would make it from bare tensors, of which nobody knows what they
are, and the class warns; what is no class but a function is given the model: ``(lambda: NAMO, {"lr": 2e-2})``.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainingArguments

import optforge
from examples.ecosystem.problem import BATCH, CLIP, SHAPE, STEPS, make_rows, report
from optforge.generated import NAMO, UBA


def make_gpt2() -> GPT2LMHeadModel:
    """The shape of the other examples as ``transformers`` has it, without dropout; the same weights each time."""
    shape = GPT2Config(
        vocab_size=SHAPE.vocab_size,
        n_positions=SHAPE.context,
        n_layer=SHAPE.layers,
        n_embd=SHAPE.width,
        n_head=SHAPE.heads,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(shape)


def train(model: GPT2LMHeadModel, optimizer: Optimizer, schedule: LRScheduler, rows: Tensor) -> list[float]:
    """Train once over ``rows``, which the Trainer shuffles; returns the loss of each step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, optimizer, schedule, rows, folder=folder, save_strategy="no")
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def make_trainer(
    model: GPT2LMHeadModel,
    optimizer: Optimizer,
    schedule: LRScheduler,
    rows: Tensor,
    held_out: Tensor | None = None,
    *,
    folder: str,
    **options: Any,
) -> Trainer:
    """The Trainer that writes to ``folder`` and evaluates ``held_out``; ``options`` are more ``TrainingArguments``."""
    settings = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        num_train_epochs=1,
        max_grad_norm=CLIP,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    datasets: Any = [None if each is None else labelled(each) for each in (rows, held_out)]
    trainer = Trainer(model, settings, None, *datasets, optimizers=(optimizer, schedule))
    trainer.remove_callback(PrinterCallback)
    return trainer


def labelled(rows: Tensor) -> list[dict[str, Tensor]]:
    """Rows as the Trainer takes them: the model shifts the labels."""
    return [{"input_ids": row, "labels": row} for row in rows[:, : SHAPE.context]]


def main() -> None:
    """Show which parameter gets which rule, and train."""
    model = make_gpt2()
    print(optforge.explain_routing(model, NAMO))
    optimizer = NAMO(model, lr=2e-2)
    report(train(model, optimizer, UBA(optimizer, total=STEPS, warmup=5), make_rows()))


if __name__ == "__main__":
    main()
