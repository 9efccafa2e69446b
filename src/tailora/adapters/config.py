"""Settings of a LoRA adapter: rank, scale, targets and exceptions by layer. No tensors."""

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
        alpha: the numerator of the scale, above 0.
        targets: what to adapt: meanings ("attention.qv", "attention", "mlp", "all-linear", "head",
            "embedding") or patterns matched against the end of a module path.
        dropout: probability that an input of the branch is dropped while training, in [0, 1).
        rslora: scale by alpha/√rank instead of alpha/rank (Kalajdzievski 2023, arXiv:2312.03732).
        dora: also learn a magnitude per output (Liu et al. 2024, arXiv:2402.09353).
        bias: which biases are trained as well: none, all of the model's, or those of the adapted layers.
        rank_pattern: rank by module pattern, where it differs from `rank`.
        alpha_pattern: alpha by module pattern, where it differs from `alpha`.

    Raises:
        SettingsError: a value is outside its range; the error names the field.
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
            raise SettingsError("no target is named", where="targets", hint='name at least one, such as "attention.qv"')
        if self.bias not in get_args(Bias):
            raise SettingsError(f"bias must be one of {', '.join(get_args(Bias))}, not {self.bias!r}", where="bias")
        for name in [*self.targets, *self.rank_pattern, *self.alpha_pattern]:
            try:
                re.compile(name)
            except re.error as error:
                what, hint = f"is not a regular expression: {error}", "correct it, or name the end of a module path"
                raise SettingsError(what, where=f"pattern {name!r}", hint=hint) from error

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
    """Return whether a pattern matches a module path: the whole of it, or its end after a dot (PEFT's rule).

    A pattern of letters, digits, dots and dashes is a path, so its dots are dots; any other is a regular expression.
    """
    if _PLAIN_PATH.fullmatch(pattern):
        return module == pattern or module.endswith(f".{pattern}")
    return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None
