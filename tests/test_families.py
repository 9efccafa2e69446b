from __future__ import annotations

from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from tailora.core.errors import SettingsError
from tailora.families import FAMILIES, UNKNOWN, Target, ends_in, family_of, fused_rows, is_tied
from tailora.lora.targets import plan_targets

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "vocab_size": 64,
    "max_position_embeddings": 16,
    "word_embed_proj_dim": 32,
    "pad_token_id": 0,
    "head_dim": 8,
    "layer_types": ["full_attention"],
}


def network(model_type: str, **changes: Any) -> transformers.PreTrainedModel:
    """A network of one block, at random."""
    small: dict[str, Any] = SMALL | changes
    if model_type == "gpt_neo":
        small |= {"num_layers": 1, "num_heads": 4, "attention_types": [[["global"], 1]]}
        del small["layer_types"], small["num_hidden_layers"], small["num_attention_heads"]
    if model_type in ("gpt2", "bloom"):
        del small["layer_types"]
    config = transformers.AutoConfig.for_model(model_type, **small)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_name_stands_in_the_network_of_its_family(model_type: str) -> None:
    model = network(model_type)
    family = family_of(model_type)
    modules = dict(model.named_modules())
    names = [*family.attention.values(), *((end,) for end in family.mlp), family.embedding, family.head]
    for ends in [*names, (family.final_norm,), (family.blocks,)]:
        assert any(ends_in(name, ends) for name in modules), ends
    assert len(plan_targets(model, ["attention"], family)) == len(set(family.attention.values()))
    assert len(plan_targets(model, ["mlp"], family)) == len(family.mlp)
    assert [modules[name] for name in plan_targets(model, ["head"], family)] == [model.get_output_embeddings()]
    assert [modules[name] for name in plan_targets(model, ["embedding"], family)] == [model.get_input_embeddings()]
    linear = plan_targets(model, ["all-linear"], family)
    assert set(linear) >= set(plan_targets(model, ["attention", "mlp"], family))
    assert not set(linear) & set(plan_targets(model, ["head"], family))
    is_conv1d = {type(modules[name]).__name__ == "Conv1D" for name in linear}
    assert is_conv1d == {family.gpt2_conv1d}
    if family.interleaved:
        with pytest.raises(SettingsError, match=r"interleaves q, k and v .* adapt the whole projection"):
            plan_targets(model, ["attention.qv"], family)
    else:
        assert plan_targets(model, ["attention.qv"], family)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_is_tied_where_config_json_says_nothing(model_type: str) -> None:
    assert is_tied({"model_type": model_type}) == transformers.AutoConfig.for_model(model_type).tie_word_embeddings
    assert is_tied({"model_type": model_type, "tie_word_embeddings": True})
    assert not is_tied({"model_type": model_type, "tie_word_embeddings": False})


def test_the_parts_of_a_fused_projection() -> None:
    gpt2 = family_of("gpt2")
    assert gpt2.targets("attention.qv") == (Target(("attn.c_attn",), ("q", "v")),)
    assert gpt2.targets("attention.vqo") == (Target(("attn.c_attn",), ("q", "v")), Target(("attn.c_proj",)))
    assert gpt2.targets("attention") == (Target(("attn.c_attn",)), Target(("attn.c_proj",)))
    assert gpt2.targets("attention.x") is None
    assert gpt2.targets("c_attn") is None
    assert family_of("llama").targets("attention.qv") == (Target(("self_attn.q_proj",)), Target(("self_attn.v_proj",)))


def test_parts_of_a_fused_projection_whose_heads_are_wider_than_the_model() -> None:
    model = network("phi3", head_dim=16, num_key_value_heads=1)
    plan = plan_targets(model, ["attention.qv"], family_of("phi3"))
    assert list(plan.values()) == [((0, 64), (80, 96))]


def test_other_networks_try_the_usual_names() -> None:
    assert family_of("no-such-type") is UNKNOWN
    assert family_of(None) is UNKNOWN
    assert len(plan_targets(network("llama"), ["attention", "mlp"], UNKNOWN)) == 7


@given(st.integers(1, 64), st.integers(1, 8))
def test_fused_rows_tile_the_outputs(head: int, groups: int) -> None:
    hidden, shared = head * groups, head
    ranges = [fused_rows(part, hidden + 2 * shared, hidden) for part in ("q", "k", "v")]
    assert ranges == [(0, hidden), (hidden, hidden + shared), (hidden + shared, hidden + 2 * shared)]


@pytest.mark.parametrize(("out", "hidden"), [(8, 8), (9, 8), (11, 8), (64, 8), (4, 8)])
def test_no_stack_of_q_k_and_v(out: int, hidden: int) -> None:
    with pytest.raises(SettingsError, match="not a stack of q, k and v; adapt the whole layer"):
        fused_rows("q", out, hidden)
