"""Train a LoRA adapter and save it as a loralib state dict, lora_model/pytorch_model.bin.

Without --model it trains the demonstration network (86,689,873 frozen parameters, drawn from a seed) on 50 texts about
restaurants in about a minute. With --model gpt2, smollm2-135m, tiny or a model folder it trains an adapter of that
model.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

import demo_training
from tailora.adapters.formats import loralib
from tailora.core.errors import UserError
from tailora.core.files import write_json
from tailora.lora import inject


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num_epochs", type=int, default=2, help="passes over the training texts (default: %(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="texts per update (default: %(default)s)")
    parser.add_argument("--lora_dim", type=int, default=16, help="rank of the adapter (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="initial learning rate (default: %(default)s)")
    parser.add_argument(
        "--max_train_samples", type=int, default=50, help="number of training texts (default: %(default)s)"
    )
    parser.add_argument(
        "--model", help="base model: gpt2, smollm2-135m, tiny or a model folder (default: the demonstration network)"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("lora_model"), help="folder for the checkpoint (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, float]:
    experiment = demo_training.load_experiment(options.model, options.lora_dim)
    training, validation = demo_training.sample_examples(experiment.tokenizer, train=options.max_train_samples)
    print(f"{experiment.name}: {len(training)} training and {len(validation)} validation texts about restaurants")

    network = experiment.network
    adapted = inject.attach(network, experiment.config, generator=torch.Generator().manual_seed(0))
    table = inject.parameter_table(network)
    print(f"LoRA of rank {options.lora_dim} on {len(adapted)} layers: {', '.join(adapted)}")
    print(
        f"parameters: {table.total:,} total, {table.trainable:,} trainable ({table.percent:.2f}%), "
        f"{table.frozen:,} frozen"
    )

    before = demo_training.validation_loss(network, validation)
    print(f"validation loss before training: {before:.3f} nats per token")
    steps = demo_training.train_steps(
        network, training, epochs=options.num_epochs, batch_size=options.batch_size, learning_rate=options.lr
    )
    for step in steps:
        print(f"step {step.number:>3}   training loss {step.loss:7.3f}   {step.seconds:.2f} s", flush=True)
    after = demo_training.validation_loss(network, validation)
    print(f"validation loss after training:  {after:.3f} nats per token ({after - before:+.3f})")

    checkpoint = options.output_dir / "pytorch_model.bin"
    adapter = replace(inject.extract(network), base_name=experiment.name, base_fingerprint=experiment.fingerprint)
    # loralib's users load a bare state dict. The file of a real model also records which slices are adapted.
    alphas = loralib.save(adapter, checkpoint, wrapped=options.model is not None)
    write_json(options.output_dir / "settings.json", {"model": options.model, "lora_alpha": alphas})
    size = checkpoint.stat().st_size
    print(f"saved {checkpoint}: {size / demo_training.MEGABYTE:.2f} MB")
    return {"before": before, "after": after, "bytes": float(size)}


def main(arguments: list[str] | None = None) -> int:
    try:
        run(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
