"""What PEFT's folders can hold and Tailora cannot represent: one error with the field and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft as hf
import pytest

from adapters import WARNINGS_OF_PEFT, edit_config, small
from networks import llama
from tailora.adapters import formats
from tailora.adapters.formats import peft
from tailora.core.errors import AdapterError

pytestmark = WARNINGS_OF_PEFT


MERGED = r"merge it with PEFT \(on its base, merge_and_unload, save_pretrained\)"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, rf"modules_to_save=\['embed_tokens', 'lm_head'\]; {MERGED}"),
        ({"trainable_token_indices": [1, 2]}, rf"trainable_token_indices=\[1, 2\]; {MERGED}"),
        ({"trainable_token_indices": {"embed_tokens": [3]}}, rf"trainable_token_indices=.*; {MERGED}"),
        ({"lora_bias": True}, rf"lora_bias=True; {MERGED}"),
        ({"layer_replication": [(0, 2), (1, 2)]}, rf"layer_replication=.*; {MERGED}"),
        (
            {"init_lora_weights": "pissa"},
            r"init_lora_weights='pissa'.* convert it with PEFT: save_pretrained with path_initial",
        ),
        (
            {"init_lora_weights": "pissa_niter_2"},
            r"init_lora_weights='pissa_niter_2'.*path_initial_model_for_weight_conversion",
        ),
        ({"init_lora_weights": "olora"}, r"init_lora_weights='olora'.*path_initial_model_for_weight_conversion"),
        ({"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens=\[1, 2\]; use it with PEFT"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_peft_makes_and_has_no_equivalent_names_the_field_and_the_way_out(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    made = hf.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **config)
    hf.get_peft_model(llama(tied=False), made).save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=message) as caught:
        formats.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig", "IA3Config", "PromptTuningConfig"])
@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_adapters_are_named_with_their_way_out(tmp_path: Path, kind: str) -> None:
    prompts: dict[str, Any] = (
        {"num_virtual_tokens": 3} if "Tuning" in kind else {"target_modules": ["q_proj", "down_proj"]}
    )
    if kind == "IA3Config":
        prompts["feedforward_modules"] = ["down_proj"]
    made = getattr(hf, kind)(task_type="CAUSAL_LM", **prompts)
    hf.get_peft_model(llama(), made).save_pretrained(str(tmp_path))
    way = "use it with PEFT" if "Tuning" in kind else MERGED
    with pytest.raises(AdapterError, match=f"only LoRA adapters can be read; .*{way}"):
        formats.load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_resized_vocabulary_names_the_way_out(tmp_path: Path) -> None:
    model = llama(tied=False)
    model.resize_token_embeddings(70)
    theirs = hf.get_peft_model(model, hf.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=True)
    with pytest.raises(AdapterError, match=rf"embed_tokens.weight \[70, 32\] is a whole weight.*; {MERGED}"):
        formats.load(tmp_path)


def test_settings_without_a_kind_are_not_repeated_in_the_error(tmp_path: Path) -> None:
    settings = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}, "num_layers": 16}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(AdapterError, match="peft_type is None, and only LoRA adapters can be read") as caught:
        formats.load(tmp_path)
    assert "fine_tune_type" not in str(caught.value)


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", "SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "QUESTION_ANS"])
def test_adapters_of_other_tasks_are_named_with_their_way_out(tmp_path: Path, task: str) -> None:
    model = llama()
    hf.get_peft_model(model.model if task == "FEATURE_EXTRACTION" else model, hf.LoraConfig(r=2)).save_pretrained(
        str(tmp_path)
    )
    edit_config(tmp_path, task_type=task)
    with pytest.raises(
        AdapterError, match=rf"adapter_config\.json: Tailora has no equivalent for task_type='{task}'.*train it"
    ):
        peft.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "only LoRA adapters"),
        ({"peft_type": None}, "only LoRA adapters"),
        ({"r": "8"}, "r: "),
        ({"r": True}, "r: "),
        ({"r": 0}, "r: "),
        ({"r": 5}, r"rank 4, but adapter_config.json says 5"),
        ({"lora_alpha": -1}, "alpha must be a positive number"),
        ({"lora_dropout": 1.5}, "dropout"),
        ({"target_modules": 3}, "target_modules"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"rank_pattern": {"(": 3}}, "not a regular expression"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"bias": "some"}, "bias"),
        ({"modules_to_save": ["score"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["experts.gate_up_proj"]}, r"target_parameters=\['experts.gate_up_proj'\]; merge it"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config=.*; use it with PEFT"),
        ({"use_qalora": True}, "use_qalora=True; merge it"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora=.*; merge it"),
        ({"megatron_config": {"tensor_model_parallel_size": 2}}, "megatron_config="),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights='lora_ga'.*; convert it"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda'.*; convert it"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'.*; convert it"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"a_setting_of_tomorrow": 7}, "a_setting_of_tomorrow"),
        ({"use_dora": True}, "no magnitude"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(AdapterError, match=message):
        peft.load(tmp_path)
