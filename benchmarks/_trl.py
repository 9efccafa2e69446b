"""The peer that trains without padding: TRL's SFTTrainer with PEFT's LoRA, completions scored only.

TRL joins the examples of a pass into one row without padding. transformers then builds an attention mask in which
examples do not see each other, from the positions that start again at 0 (`leaks` checks this). The vocabulary
projection runs only on positions that predict a completion token. Every free choice is made in the peer's favour, as
in `_peft`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import GPT2Tokenizer, PreTrainedModel
from trl import SFTConfig, SFTTrainer

from _meter import Meter
from _peft import IGNORED, UPDATE, StopWhenMeasured, grouped
from tailora.data.examples import Example

Batching = Literal["padded", "free", "pack"]
_BATCHING: dict[str, Batching] = {"padded": "padded", "free": "free", "pack": "pack"}


@dataclass(frozen=True)
class Setup:
    """How TRL trains.

    Attributes:
        base: the type the frozen base is loaded in.
        autocast: the Trainer's `bf16=True`.
        batching: "padded" fills rows up, with examples of similar length in a pass; "free" joins the examples of a
            pass into one row; "pack" fills rows of a fixed length by best-fit decreasing, one row a pass.
        size: examples a pass, or with "pack" tokens a row.
    """

    base: torch.dtype
    autocast: bool
    batching: Batching
    size: int

    @property
    def precision(self) -> str:
        """The type that the large matrix products are computed in."""
        return "bfloat16" if self.autocast or self.base == torch.bfloat16 else "float32"

    @classmethod
    def named(cls, arm: str) -> Setup:
        """The setup of an arm: "trl_fp32_free_8", "trl_bf16_pack_512", "trl_autocast_padded_32", …"""
        _, base, batching, size = arm.split("_")
        return cls(
            torch.bfloat16 if base == "bf16" else torch.float32, base == "autocast", _BATCHING[batching], int(size)
        )


def measure(
    model: PreTrainedModel,
    examples: Sequence[Example],
    setup: Setup,
    meter: Meter,
    *,
    adapter: dict[str, Any],
    tokenizer: str,
    seed: int,
) -> float:
    """Train by SFTTrainer, where the model lies, until the meter is satisfied; returns its mean loss.

    Args:
        model: the base, in the setup's type.
        examples: what to train on.
        setup: how.
        meter: counts what passes through the model.
        adapter: the fields of PEFT's LoraConfig.
        tokenizer: the tokenizer's folder; TRL takes the padding token from it.
        seed: of the order and of dropout.
    """
    model.config.use_cache = False
    ordered = list(examples)
    if setup.batching == "padded":
        ordered = [example for batch in grouped(examples, setup.size, seed) for example in batch]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(folder, examples, setup, on_cpu=model.device.type == "cpu", seed=seed),
            train_dataset=dataset(ordered),
            processing_class=GPT2Tokenizer.from_pretrained(tokenizer),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **adapter),
            callbacks=[StopWhenMeasured(meter)],
        )
        count(trainer.model, meter)
        return float(trainer.train().training_loss)


def _arguments(folder: str, examples: Sequence[Example], setup: Setup, *, on_cpu: bool, seed: int) -> SFTConfig:
    packed = setup.batching == "pack"
    rows = setup.size * len(examples) / sum(map(len, examples)) if packed else setup.size  # examples a pass
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=1 if packed else setup.size,
        gradient_accumulation_steps=max(1, round(UPDATE / rows)),
        packing=packed,
        packing_strategy="bfd",
        padding_free=setup.batching == "free",
        max_length=setup.size if packed else None,
        completion_only_loss=True,
        shuffle_dataset=False,
        train_sampling_strategy="sequential" if setup.batching == "padded" else "random",
        gradient_checkpointing=False,
        bf16=setup.autocast,
        fp16=False,
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        max_steps=100_000,
        use_cpu=on_cpu,
        seed=seed,
        dataloader_num_workers=0,
        dataloader_drop_last=True,
        dataloader_pin_memory=not on_cpu,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def dataset(examples: Sequence[Example]) -> Dataset:
    """The examples as prompt and completion after tokenisation, so that TRL trains on the same tokens as the others."""
    return Dataset.from_dict(
        {
            "input_ids": [list(example.prompt + example.completion) for example in examples],
            "completion_mask": [[0] * len(example.prompt) + [1] * len(example.completion) for example in examples],
        }
    )


def count(model: nn.Module, meter: Meter) -> None:
    """Let the meter count every example and position that passes through the model, and the positions scored."""

    def note(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        ids, positions = named["input_ids"], named.get("position_ids")
        meter.add(
            examples=len(ids) if positions is None else int((positions == 0).sum()),
            body_positions=ids.numel(),
            head_positions=int((named["labels"][:, 1:] != IGNORED).sum()),
        )

    model.register_forward_pre_hook(note, with_kwargs=True)


@torch.inference_mode()
def leaks(model: PreTrainedModel, first: Example, second: Example) -> float:
    """How far the states of a second example change when another precedes it in the same row, relative to their size.

    About the rounding error where examples do not see each other; of the order of 1 where they do.
    """
    body, device = model.base_model, model.device
    rows = [torch.tensor([example.prompt + example.completion], device=device) for example in (first, second)]
    places = [torch.arange(row.shape[1], device=device)[None] for row in rows]
    alone = body(input_ids=rows[1], position_ids=places[1], use_cache=False).last_hidden_state
    joined = body(input_ids=torch.cat(rows, 1), position_ids=torch.cat(places, 1), use_cache=False).last_hidden_state
    return float((joined[:, rows[0].shape[1] :] - alone).abs().max() / alone.abs().max())
