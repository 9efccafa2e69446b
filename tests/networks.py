"""Tiny random networks for tests: made in code from a seed, in eval mode, biases and norms not at rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VOCABULARY = 64


Network = TypeVar("Network", bound=nn.Module)


def _made(make: Callable[[], Network], seed: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """GPT-2 with two blocks of width 32, head tied."""
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=32, bos_token_id=0)
    config.eos_token_id = 0
    return _made(lambda: GPT2LMHeadModel(config), seed)


def llama(seed: int = 0, *, tied: bool = True) -> LlamaForCausalLM:
    """Llama with two blocks of width 32 and grouped heads."""
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        tie_word_embeddings=tied,
    )
    return _made(lambda: LlamaForCausalLM(config), seed)


_BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "hidden_size": 32}
_GROUPED = {**_BLOCKS, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_GPT_NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gpt_neo": {**_GPT_NEO, "hidden_size": 32},
    "bloom": {"n_layer": 2, "n_head": 4, "hidden_size": 32},
    "opt": {**_BLOCKS, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {**_BLOCKS, "intermediate_size": 48},
}


def network(family: str, seed: int = 0, **config: Any) -> Any:
    """A network of any family that transformers has, by its `model_type`: two blocks of width 32, heads grouped.

    Its dropouts are those of the family's own configuration, which are above 0 in GPT-2 and OPT.
    """
    shape = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    made = AutoConfig.for_model(family, **(shape | SHAPES.get(family, _GROUPED) | config))
    return _made(lambda: AutoModelForCausalLM.from_config(made), seed)


class Mixed(nn.Module):
    """A network that is no language model: every kind of layer, one of them grouped, and one held in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.conv1 = nn.Conv1d(8, 12, 3, padding=2, dilation=2, padding_mode="circular")
        self.grouped = nn.Conv1d(12, 8, 3, groups=2, stride=2)
        self.conv2 = nn.Conv2d(1, 4, (3, 2), padding=1)
        self.conv3 = nn.Conv3d(2, 3, 2)
        self.shared = nn.Linear(6, 6)
        self.again = self.shared
        self.norm = nn.LayerNorm(6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [batch, 12] to [batch, 3, …, 6]."""
        x = self.grouped(self.conv1(self.embed(ids).mT))  # [batch, 8, 5]
        x = self.conv2(x[:, None])  # [batch, 4, 8, 6]
        x = self.conv3(x.view(len(ids), 2, 2, 8, 6))[..., :5]  # [batch, 3, 1, 7, 5]
        x = torch.nn.functional.pad(x, (0, 1))
        return self.again(self.norm(self.shared(x)).relu())  # type: ignore[no-any-return]


def mixed(seed: int = 0) -> Mixed:
    """The network of every kind of layer."""
    return _made(Mixed, seed)


def token_ids(seed: int = 0) -> torch.Tensor:
    """Token ids [2, 12], none of them padding, below the smallest vocabulary here."""
    return torch.randint(1, 11, (2, 12), generator=torch.Generator().manual_seed(seed))


def outputs(model: nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    """What a network answers: logits of a language model, else its output."""
    with torch.no_grad():
        found = model(token_ids() if ids is None else ids)
    return found if isinstance(found, torch.Tensor) else found.logits


def stir(model: nn.Module, seed: int = 1, size: float = 0.1) -> None:
    """Move every trainable parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * size)
