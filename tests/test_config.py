from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.adapters.config import LoraConfig, matches
from tailora.core.errors import SettingsError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: rank must be a whole number of at least 1, not 0"),
        ({"rank": True}, "rank: rank must be a whole number of at least 1, not True"),
        ({"rank": 2.0}, "not 2.0"),
        ({"alpha": 0}, "alpha: alpha must be a positive number, not 0"),
        ({"alpha": math.nan}, "not nan"),
        ({"alpha": math.inf}, "not inf"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\.q_proj: rank must be"),
        ({"alpha_pattern": {"q_proj": -1}}, r"alpha_pattern\.q_proj: alpha must be"),
        ({"dropout": 1.0}, "dropout: dropout must be at least 0 and below 1, not 1.0"),
        ({"targets": ()}, 'targets: no target is named; name at least one, such as "attention.qv"'),
        ({"targets": ("q_proj", "(")}, r"pattern '\(': is not a regular expression"),
        ({"bias": "some"}, "bias: bias must be one of none, all, lora_only, not 'some'"),
        ({"rank_pattern": {"[": 3}}, "not a regular expression"),
    ],
)
def test_a_value_outside_its_range_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        LoraConfig(**settings)


@pytest.mark.parametrize(
    ("pattern", "module", "expected"),
    [
        ("c_attn", "transformer.h.0.attn.c_attn", True),
        ("attn", "transformer.h.0.attn.c_attn", False),
        ("attn.c_attn", "transformer.h.0.attn.c_attn", True),
        ("attn.c_attn", "transformer.h.0.crossattn.c_attn", False),
        ("h.0.attn.c_attn", "transformer.h10.attn.c_attn", False),
        ("h.1.mlp", "transformer.h.11.mlp", False),
        ("lm_head", "lm_head", True),
        (r".*layers\.[01]\..*_proj", "model.layers.1.mlp.up_proj", True),
        (r"layers\.[01]\..*_proj", "model.layers.1.mlp.up_proj", True),
        ("^layers.1.q_proj", "model.layers.1.q_proj", False),
        ("^model.layers.1.q_proj", "model.layers.1.q_proj", True),
        ("(?:q|v)_proj", "model.layers.1.v_proj", True),
        ("q_proj|v_proj", "model.layers.1.v_proj", True),
    ],
)
def test_patterns_name_the_ends_of_paths(pattern: str, module: str, expected: bool) -> None:
    assert matches(pattern, module) is expected


@given(st.integers(1, 512), st.floats(1e-3, 1e4))
def test_scales(rank: int, alpha: float) -> None:
    assert LoraConfig().scale(rank, alpha) == alpha / rank
    assert LoraConfig(rslora=True).scale(rank, alpha) == alpha / math.sqrt(rank)


def test_the_first_matching_pattern_holds() -> None:
    config = LoraConfig(rank=8, alpha=16, rank_pattern={"h.0.c_fc": 2, "c_fc": 4}, alpha_pattern={"c_fc": 1})
    assert [config.rank_of(name) for name in ("h.0.c_fc", "h.1.c_fc", "h.1.c_proj")] == [2, 4, 8]
    assert [config.alpha_of(name) for name in ("h.0.c_fc", "h.1.c_proj")] == [1, 16]
