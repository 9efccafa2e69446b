"""The demonstration network: 86,689,873 parameters that need no download.

An embedding, two feed-forward blocks and an output layer predict the next token from the current one alone. Without
attention, the network learns how frequent each word is and which words follow each other. The weights are drawn from
a seed; a fingerprint checks that they are the same on every machine.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailora.adapters.config import LoraConfig
from tailora.core.errors import ModelError
from tailora.models.load import fingerprint_module

NAME = "demonstration"
VOCABULARY = 50_257
WIDTH = 768
INNER = 3_072
BLOCKS = 2
SEED = 20_210_617
FINGERPRINT = "1ef9bbc7c0dc8a73954a11146445c6c85d16bc20d62e7c2b8b7f2a3065489a3a"


class Block(nn.Module):
    """`x + second(GELU(first(x)))`, both layers with biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, inner)
        self.second = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map hidden states [..., width] to hidden states [..., width]."""
        y: Tensor = self.second(F.gelu(self.first(x)))
        return x + y


class DemoNetwork(nn.Module):
    """Embedding, blocks, and an output layer with a bias.

    Args:
        vocabulary: number of tokens.
        width: size of the hidden states.
        inner: size of the hidden layer of a block.
        blocks: number of blocks.
    """

    def __init__(
        self, vocabulary: int = VOCABULARY, width: int = WIDTH, inner: int = INNER, blocks: int = BLOCKS
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, inner) for _ in range(blocks))
        self.output = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids [batch, length] to the logits of the next tokens, [batch, length, vocabulary]."""
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.output(x)
        return logits


def build(**sizes: int) -> DemoNetwork:
    """Build the network in eval mode; its weights are drawn from `SEED` and are the same on every machine.

    Args:
        **sizes: arguments of `DemoNetwork` that differ from their defaults. The fingerprint is checked only for the
            default sizes.

    Raises:
        ModelError: this torch release draws other values than the one that the fingerprint was taken with.
    """
    with torch.device("meta"):
        network = DemoNetwork(**sizes)
    network = network.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in network.named_parameters():
        fan_in = 1 if name.startswith("embedding") else _fan_in(network, name)
        # Uniform draws are 24 random bits scaled by a power of two; normal draws depend on the processor's rounding.
        bound = math.sqrt((3 if fan_in == 1 else 1) / fan_in)
        parameter.data = (torch.rand(parameter.shape, generator=generator) - 0.5) * (2 * bound)
    if not sizes and fingerprint_module(network) != FINGERPRINT:
        raise ModelError(
            "the weights of the demonstration network do not have the expected fingerprint",
            where=f"torch {torch.__version__}",
            hint="install the torch release that constraints.txt names",
        )
    return network


def _fan_in(network: DemoNetwork, name: str) -> int:
    layer = network.get_submodule(name.rpartition(".")[0])
    assert isinstance(layer, nn.Linear)
    return layer.in_features


def lora_config(rank: int = 16) -> LoraConfig:
    """LoRA on both layers of each block and on the output layer, with scale alpha / rank = 2 at every rank."""
    return LoraConfig(rank=rank, alpha=2.0 * rank, targets=("first", "second", "output"))
