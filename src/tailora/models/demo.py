"""The demonstration network of examples/NLG: 86,689,873 parameters that need no download.

A token's embedding passes two feed-forward blocks and gives the logits of the next token; no token sees another, so
it learns how often words are and what follows what, and nothing more. Its weights are not stored but drawn from a
seed, and a fingerprint proves that they came out as everywhere else.
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
        """States [..., width] to states [..., width]."""
        y: Tensor = self.second(F.gelu(self.first(x)))
        return x + y


class DemoNetwork(nn.Module):
    """Embedding, blocks, and an output layer with a bias.

    Args:
        vocabulary: number of tokens.
        width: size of the states.
        inner: size inside a block.
        blocks: how many.
    """

    def __init__(
        self, vocabulary: int = VOCABULARY, width: int = WIDTH, inner: int = INNER, blocks: int = BLOCKS
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, inner) for _ in range(blocks))
        self.output = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [batch, length] to the logits of the next tokens, [batch, length, vocabulary]."""
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.output(x)
        return logits


def build(**sizes: int) -> DemoNetwork:
    """The network in eval mode with its values drawn from `SEED`, the same on every machine.

    Args:
        **sizes: those of `DemoNetwork` that shall differ; the fingerprint is checked for the sizes it stands for.

    Raises:
        ModelError: if torch draws other values here than where the fingerprint was taken.
    """
    with torch.device("meta"):
        network = DemoNetwork(**sizes)
    network = network.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in network.named_parameters():
        fan_in = 1 if name.startswith("embedding") else _fan_in(network, name)
        # Uniform draws are 24 random bits scaled by a power of two; normal ones differ between processors by rounding.
        bound = math.sqrt((3 if fan_in == 1 else 1) / fan_in)
        parameter.data = (torch.rand(parameter.shape, generator=generator) - 0.5) * (2 * bound)
    if not sizes and fingerprint_module(network) != FINGERPRINT:
        raise ModelError(
            "the demonstration network came out with other values than it was made with",
            where=f"torch {torch.__version__}",
            hint="install the torch release that constraints.txt names",
        )
    return network


def _fan_in(network: DemoNetwork, name: str) -> int:
    layer = network.get_submodule(name.rpartition(".")[0])
    assert isinstance(layer, nn.Linear)
    return layer.in_features


def lora_config(rank: int = 16) -> LoraConfig:
    """LoRA on both layers of each block and on the output; the scale is 2 at every rank."""
    return LoraConfig(rank=rank, alpha=2.0 * rank, targets=("first", "second", "output"))
