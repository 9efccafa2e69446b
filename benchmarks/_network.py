"""The benchmark network: GPT-2 124M with random weights, and the arithmetic of a pass through it."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

LAYERS, WIDTH, VOCABULARY = 12, 768, 50_257
BODY_WEIGHTS = 12 * LAYERS * WIDTH**2
HEAD_WEIGHTS = WIDTH * VOCABULARY


def random_gpt2() -> GPT2LMHeadModel:
    """GPT-2 124M in fp32, the same weights at every call, without dropout of its own."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0))


def training_gflop(body_positions: float, head_positions: float) -> float:
    """The arithmetic, in 10^9 operations, of training adapters through frozen weights.

    A position costs two operations a weight forward and two backward: the gradient by activations only, since the
    weights are frozen. Attention, adapters and everything elementwise are left out, so it is a lower bound.

    Args:
        body_positions: tokens that pass through the transformer's blocks.
        head_positions: tokens that pass through the projection onto the vocabulary.
    """
    return 4e-9 * (BODY_WEIGHTS * body_positions + HEAD_WEIGHTS * head_positions)
