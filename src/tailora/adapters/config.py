"""What a LoRA adapter is asked to be: rank, scale, targets and their exceptions. Knows no tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from tailora.core.errors import SettingsError

Bias = Literal["none", "all", "lora_only"]


@dataclass(frozen=True)
class LoraConfig:
    """The settings of a LoRA adapter (Hu et al. 2021, arXiv:2106.09685).

    The adapted layer computes `y = W x + scale · B A x` with A of shape [rank, in] and B of shape [out, rank].

    Attributes:
        rank: the inner dimension r of the update, at least 1.
        alpha: the numerator of the scale.
        targets: what to adapt: meanings ("attention.qv", "attention", "mlp", "all-linear", "head",
            "embedding") or patterns matched against the end of a module path.
        dropout: probability of dropping an input of the branch while training, in [0, 1).
        rslora: scale by alpha/√rank instead of alpha/rank (Kalajdzievski 2023, arXiv:2312.03732).
        dora: learn a magnitude for each output beside the direction (Liu et al. 2024, arXiv:2402.09353).
        bias: which biases are trained along: none, all of the model's, or those of the adapted layers.
        rank_pattern: rank by module pattern, where it differs from `rank`.
        alpha_pattern: alpha by module pattern, where it differs from `alpha`.

    Raises:
        SettingsError: on a value outside its range, naming the field.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention.qv",)
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    bias: Bias = "none"
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rank in [("rank", self.rank), *((f"rank_pattern.{k}", v) for k, v in self.rank_pattern.items())]:
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise SettingsError(f"rank must be a whole number of at least 1, not {rank!r}", where=name)
        for name, alpha in [("alpha", self.alpha), *((f"alpha_pattern.{k}", v) for k, v in self.alpha_pattern.items())]:
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
                raise SettingsError(f"alpha must be a positive number, not {alpha!r}", where=name)
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout must be at least 0 and below 1, not {self.dropout!r}", where="dropout")
        if not self.targets:
            raise SettingsError("no targets", where="targets", hint='name some, as in "attention.qv"')
        if self.bias not in get_args(Bias):
            raise SettingsError(f"bias must be one of {', '.join(get_args(Bias))}, not {self.bias!r}", where="bias")
        for name in [*self.targets, *self.rank_pattern, *self.alpha_pattern]:
            try:
                re.compile(name)
            except re.error as error:
                raise SettingsError(f"not a regular expression: {error}", where=f"pattern {name!r}") from error

    def rank_of(self, module: str) -> int:
        """The rank at a module path: the first `rank_pattern` entry that matches it, else `rank`."""
        return next((r for p, r in self.rank_pattern.items() if matches(p, module)), self.rank)

    def alpha_of(self, module: str) -> float:
        """The alpha at a module path: the first `alpha_pattern` entry that matches it, else `alpha`."""
        return next((a for p, a in self.alpha_pattern.items() if matches(p, module)), self.alpha)

    def scale(self, rank: int, alpha: float) -> float:
        """The factor before `B A x`: alpha/rank, or alpha/√rank when rank-stabilised."""
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


_PLAIN_PATH = re.compile(r"[\w.-]+")


def matches(pattern: str, module: str) -> bool:
    """Whether a pattern names a module path: the whole of it, or its end from a dot on (PEFT's rule).

    A pattern of letters, digits, dots and dashes is a path, so its dots are dots; any other is a regular expression.
    """
    if _PLAIN_PATH.fullmatch(pattern):
        return module == pattern or module.endswith(f".{pattern}")
    return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None
