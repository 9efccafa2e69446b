"""Train a LoRA adapter and save it as a loralib state dict, lora_model/pytorch_model.bin.

Without --model it trains the demonstration network (86,689,873 frozen parameters, drawn from a seed) on 50 texts about
restaurants in about a minute. With --model gpt2, smollm2-135m, tiny or a folder it does the same on that model.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tailora.adapters.formats import loralib
from tailora.core.errors import UserError
from tailora.core.files import write_json
from tailora.lora import inject
from tailora.training import demo


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_epochs", type=int, default=2, help="times each text is seen (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="texts per update (default: %(default)s)")
    parser.add_argument("--lora_dim", type=int, default=16, help="rank of the adapter (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="first learning rate (default: %(default)s)")
    parser.add_argument("--max_train_samples", type=int, default=50, help="training texts (default: %(default)s)")
    parser.add_argument(
        "--model", help="gpt2, smollm2-135m, tiny or a model folder (default: the demonstration network)"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("lora_model"), help="(default: %(default)s)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, float]:
    subject = demo.subject(options.model, options.lora_dim)
    training, validation = demo.sample_examples(subject.tokenizer, train=options.max_train_samples)
    print(f"{subject.name}: {len(training)} training and {len(validation)} validation texts about restaurants")

    network = subject.network
    adapted = inject.attach(network, subject.config, generator=torch.Generator().manual_seed(0))
    table = inject.parameter_table(network)
    print(f"LoRA of rank {options.lora_dim} on {len(adapted)} layers: {', '.join(adapted)}")
    print(
        f"parameters: {table.total:,} total, {table.trainable:,} trainable ({table.percent:.2f}%), "
        f"{table.frozen:,} frozen"
    )

    before = demo.validation_loss(network, validation)
    print(f"validation loss before training: {before:.3f} nats per token")
    steps = demo.train_steps(
        network, training, epochs=options.num_epochs, batch_size=options.batch_size, learning_rate=options.lr
    )
    for step in steps:
        print(f"step {step.number:>3}   training loss {step.loss:7.3f}   {step.seconds:.2f} s", flush=True)
    after = demo.validation_loss(network, validation)
    print(f"validation loss after training:  {after:.3f} nats per token ({after - before:+.3f})")

    checkpoint = options.output_dir / "pytorch_model.bin"
    adapter = replace(inject.extract(network), base_name=subject.name, base_fingerprint=subject.fingerprint)
    # The demonstration's file is bare, as loralib's users load it; a real model's also says which slices it adapts.
    alphas = loralib.save(adapter, checkpoint, wrapped=options.model is not None)
    write_json(options.output_dir / "settings.json", {"model": options.model, "lora_alpha": alphas})
    size = checkpoint.stat().st_size
    print(f"saved {checkpoint}: {size / demo.MEGABYTE:.2f} MB")
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
