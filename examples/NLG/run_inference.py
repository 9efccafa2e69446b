"""Load lora_model/pytorch_model.bin and run the adapter in both modes: beside the base model, and merged into it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import demo_training
from tailora.adapters.formats import loralib
from tailora.core.errors import AdapterError, UserError
from tailora.lora import inject

ROWS, LENGTH = 2, 32


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="base model of the adapter (default: the one in settings.json)")
    parser.add_argument(
        "--checkpoint_dir",
        type=Path,
        default=Path("lora_model"),
        help="folder that run_training.py wrote (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "settings.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return {"model": settings["model"], "lora_alpha": settings["lora_alpha"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterError(
            "the folder does not hold a checkpoint of run_training.py",
            where=folder,
            hint="run run_training.py first, or name its folder with --checkpoint_dir",
        ) from error


def run(options: argparse.Namespace) -> float:
    settings = read_settings(options.checkpoint_dir)
    checkpoint = options.checkpoint_dir / "pytorch_model.bin"
    adapter = loralib.load(checkpoint, alpha=settings["lora_alpha"])
    experiment = demo_training.load_experiment(options.model or settings["model"])
    if adapter.base_fingerprint not in (None, experiment.fingerprint):
        raise AdapterError(
            f"the adapter was trained on other weights than those of {experiment.name}",
            where=checkpoint,
            hint="name the model of the training run with --model",
        )
    network = experiment.network
    _, validation = demo_training.sample_examples(experiment.tokenizer)
    tokens = [token for example in validation for token in example.prompt + example.completion]
    ids = torch.tensor(tokens[: ROWS * LENGTH]).view(ROWS, LENGTH)
    base_loss = demo_training.validation_loss(network, validation)
    print(f"{experiment.name} alone: validation loss {base_loss:.3f} nats per token")

    inject.attach(network, adapter.config, adapter)
    with torch.inference_mode():
        beside = demo_training.logits_of(network, ids)
    print(f"adapter beside the base: logits {list(beside.shape)}, ", end="")
    print(f"validation loss {demo_training.validation_loss(network, validation):.3f}")

    inject.merge(network)
    with torch.inference_mode():
        merged = demo_training.logits_of(network, ids)
    print(f"adapter merged:          logits {list(merged.shape)}, ", end="")
    print(f"validation loss {demo_training.validation_loss(network, validation):.3f}")

    difference = (beside - merged).abs().max().item() / beside.abs().max().item()
    same = (beside.argmax(-1) == merged.argmax(-1)).float().mean().item()
    print(
        f"largest difference {difference:.1e} of the largest logit; same most likely token at {same:.0%} of positions"
    )
    return difference


def main(arguments: list[str] | None = None) -> int:
    try:
        difference = run(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    agree = difference < 1e-4
    print("the two modes agree" if agree else "THE TWO MODES DISAGREE")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
