"""Merged models as GGUF: what transformers reads from them, what llama.cpp computes, and Ollama's template."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer as TrainableTokenizer
from tokenizers import models, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from bases import KINDS, META, SHAPES, save_adapter, save_base, save_bpe, save_sentencepiece, save_tokenizer
from tailora.commands.convert import ConvertSettings, run
from tailora.core.errors import ModelError, SettingsError
from tailora.data.prompts import PromptFormat
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Fact, Record
from tailora.engine.decoding import Decoding
from tailora.engine.requests import Request
from tailora.inference.attached import load_adapted
from tailora.inference.gguf_export import write_gguf
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.models.catalog import resolve
from tailora.models.gguf_tokenizer import read_tokenizer
from tailora.models.load import quiet_transformers

IDS = (431, 338, 305, 2097, 3771, 287, 510)
# llama.cpp has a window in five of six blocks, and a constant base of their rotation.
GEMMA = {
    "num_hidden_layers": 7,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    "rope_local_base_freq": 1e4,
    "query_pre_attn_scalar": 16,
}


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "gemma3_text", SHAPES["gemma3_text"] | GEMMA)


def saved(folder: Path, kind: str, **changes: Any) -> tuple[Path, Path]:
    """A random base and a random adapter of it."""
    save_base(folder / "base", kind, tokenizer=save_bpe, **changes)
    return folder / "base", save_adapter(folder / "adapter", str(folder / "base"))


def converted(adapter: Path, output: Path, to: Any = "f32") -> Path:
    run(ConvertSettings(adapter=adapter, to="gguf", merged=True, storage=to, output=output))
    return output


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0].float()  # type: ignore[no-any-return]


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize(("kind", "to"), [*((kind, "f32") for kind in KINDS), ("llama", "f16"), ("gpt2", "q8_0")])
def test_transformers_reads_what_base_and_adapter_compute(tmp_path: Path, kind: str, to: str) -> None:
    base, adapter = saved(tmp_path, kind)
    wanted = logits_of(load_adapted(adapter, str(base), dtype=torch.float32).base.model)
    output = converted(adapter, tmp_path / "out", to)
    with quiet_transformers():
        config = AutoConfig.from_pretrained(base)  # transformers reads only some of the settings in a GGUF
        options: dict[str, Any] = {"gguf_file": "model.gguf", "config": config, "dtype": torch.float32}
        read = AutoModelForCausalLM.from_pretrained(output, **options)
    error = (logits_of(read) - wanted).abs().mean() / wanted.abs().mean()
    assert error < {"f32": 1e-5, "f16": 2e-3, "q8_0": 3e-2}[to]


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_writes_what_the_engine_writes(tmp_path: Path, kind: str) -> None:
    server = pytest.importorskip("llama_cpp_server")
    base, adapter = saved(tmp_path, kind)
    engine = start_engine(resolve_models(str(base), {"a": adapter}), backend="openvino", precision="fp32").engine
    decoding = Decoding(max_new_tokens=24, ignore_end=True)
    ((own,),) = engine.complete([Request(IDS, decoding, (("a", 1.0),))])
    with server.LlamaCpp(converted(adapter, tmp_path / "f32") / "model.gguf") as llama_cpp:
        steps = [llama_cpp.likeliest(IDS + own.token_ids[:step]) for step in range(24)]
    compared = [(step, *wanted) for step, *wanted in zip(steps, own.token_ids, own.logprobs, strict=True) if step]
    assert len(compared) > 12
    for (token, theirs), wanted, logprob in compared:
        assert abs(theirs - logprob) < 5e-3  # llama.cpp rounds the inputs of GELU to 16 bits
        assert token == wanted
    if kind == "llama":
        with server.LlamaCpp(converted(adapter, tmp_path / "q8_0", "q8_0") / "model.gguf") as llama_cpp:
            near = llama_cpp.likeliest(IDS)
        assert abs(near[1] - own.logprobs[0]) < 0.2


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_applies_the_adapter_to_the_base(tmp_path: Path, kind: str) -> None:
    server = pytest.importorskip("llama_cpp_server")
    base, adapter = saved(tmp_path, kind)
    model = load_adapted(adapter, str(base), dtype=torch.float32).base.model
    prompts = PromptFormat.of_meta(META, Tokenizer.from_folder(base), base)
    write_gguf(base, tmp_path / "base.gguf", "f32", prompts, resolve(str(base)))
    run(ConvertSettings(adapter=adapter, to="gguf", output=tmp_path / "lora.gguf"))
    compared = 0
    with server.LlamaCpp(tmp_path / "base.gguf", tmp_path / "lora.gguf") as llama_cpp:
        for length in range(2, len(IDS) + 1):
            with torch.inference_mode():
                wanted = model(torch.tensor([IDS[:length]])).logits[0, -1].log_softmax(-1)
            theirs = llama_cpp.logprobs(IDS[:length], 50)
            assert all(abs(wanted[token].item() - logprob) < 5e-3 for token, logprob in theirs.items())
            compared += len(theirs)
    assert compared >= 50


def with_rule(folder: Path, rule: str) -> int:
    """Write a tokenizer that splits texts by one of the rules."""
    size = save_bpe(folder)
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= RULES[rule][0]
    settings["model"]["ignore_merges"] = rule == "llama-bpe"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return size


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(numbers: str) -> dict[str, Any]:
    regex = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + numbers
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
RULES: dict[str, tuple[dict[str, Any], str]] = {
    "gpt-2": ({"pre_tokenizer": BYTES}, "gpt-2"),
    "smollm": ({"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, BYTES)}, "smollm"),
    "qwen2": (
        {"pre_tokenizer": sequence(split(r"\p{N}"), BYTES | {"use_regex": False}), "normalizer": {"type": "NFC"}},
        "qwen2",
    ),
    "llama-bpe": ({"pre_tokenizer": sequence(split(r"\p{N}{1,3}"), BYTES | {"use_regex": False})}, "llama-bpe"),
}
TEXTS = (
    "name : Blue Spice | eatType : pub | priceRange : £20-25, 1998 customers =>",
    "It's they'LL  go   there.\n\n  Then\tthey'd 12345678 --- wait!?\r\n",
    "café Ünïcode Straße 東京タワー 🙂👍🏽 ½ ② ٣٤ naïve",
    " leading, trailing  ",
    "a" * 40 + "_x9_" + "the" * 9,
)


@pytest.mark.parametrize("rule", RULES)
def test_llama_cpp_splits_texts_into_the_same_tokens(tmp_path: Path, rule: str) -> None:
    server = pytest.importorskip("llama_cpp_server")
    base = tmp_path / "base"
    save_base(base, "llama", tokenizer=lambda folder: with_rule(folder, rule))
    output = converted(save_adapter(tmp_path / "adapter", str(base)), tmp_path / "out")
    own = Tokenizer.from_folder(base)
    rng = np.random.default_rng(0)
    alphabet = [*"abcdeXYZ0123456789    '.,-:|\n\t", "é", "ß", "東", "🙂", "½", "'s", " the", "\u00a0"]
    texts = [*TEXTS, *("".join(rng.choice(alphabet, 30)) for _ in range(60))]
    with server.LlamaCpp(output / "model.gguf") as llama_cpp:
        assert [llama_cpp.tokens(text) for text in texts] == [own.encode(text) for text in texts]


def save_pieces(folder: Path, kind: str) -> int:
    """Write a vocabulary as SentencePiece trains one, with all pairs that give a piece; give its size."""
    save_sentencepiece(folder, kind)
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = settings["model"]["vocab"]
    trained = TrainableTokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=[*"▁-="], show_progress=False)
    texts = [" ".join(TEXTS) * 3, "the pub is there " * 5, "----====" * 5, "   name   :" * 5]
    trained.train_from_iterator([text.replace(" ", "▁") for text in texts], trainer)
    learnt = trained.get_vocab()
    for piece in sorted(learnt, key=lambda piece: learnt[piece]):
        vocabulary.setdefault(piece, len(vocabulary))
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for token in ("▁▁▁▁", "\n\n") if kind == "gemma" else ():
        vocabulary.setdefault(token, len(vocabulary))
        settings["added_tokens"].append({"id": vocabulary[token], "content": token, **added})
    pieces = sorted(vocabulary, key=lambda piece: learnt.get(piece, len(learnt)))
    pairs = [(piece[:at], piece[at:]) for piece in pieces for at in range(1, len(piece))]
    settings["model"]["merges"] = [[left, right] for left, right in pairs if {left, right} <= vocabulary.keys()]
    settings["model"]["vocab"] = vocabulary
    path.write_text(json.dumps(settings), encoding="utf-8")
    return len(vocabulary)


@pytest.mark.parametrize("kind", ["gemma", "llama"])
def test_llama_cpp_splits_texts_into_sentencepiece_s_tokens(tmp_path: Path, kind: str) -> None:
    server = pytest.importorskip("llama_cpp_server")
    base = tmp_path / "base"
    save_base(base, "llama", tokenizer=lambda folder: save_pieces(folder, kind), ends=2)
    adapter = save_adapter(tmp_path / "adapter", str(base), meta=META | {"end_token_id": 2, "bos_token_ids": [1]})
    output, own = converted(adapter, tmp_path / "out"), Tokenizer.from_folder(base)
    rng = np.random.default_rng(0)
    alphabet = [*"abcdenmXYZ01   '.,-=:|\n\t", "é", "東", "🙂", " name", " the", "----"]
    texts = [*TEXTS, "<s>", "a </s> b", *("".join(rng.choice(alphabet, 40)) for _ in range(60))]
    with server.LlamaCpp(output / "model.gguf") as llama_cpp:
        for text in texts:
            assert llama_cpp.tokens(text) == [*own.bos_ids, *own.encode(text)], text


def test_the_tokens_of_sentencepiece_have_types_and_scores(tmp_path: Path) -> None:
    size = save_sentencepiece(tmp_path, "gemma")
    tokenizer = read_tokenizer(tmp_path, size + 1)
    assert (tokenizer.pre, tokenizer.unknown, tokenizer.spaced) == (None, 0, False)
    assert tokenizer.types[:4] == [2, 3, 3, 6]
    assert (tokenizer.types[-2], tokenizer.types[-1]) == (1, 5)
    score = dict(zip(tokenizer.tokens, tokenizer.scores, strict=True))
    assert score["▁n"] > score["am"] > score["▁nam"] > score["ub"] > score["a"]
    assert read_tokenizer_of(tmp_path, "llama").spaced


def read_tokenizer_of(folder: Path, kind: str, **changes: Any) -> Any:
    """Read a vocabulary of SentencePiece with changed settings of its model."""
    size = save_sentencepiece(folder, kind)
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model"] |= changes
    path.write_text(json.dumps(settings), encoding="utf-8")
    return read_tokenizer(folder, size)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("metaspace", {}, "cannot do what the tokenizer does with spaces"),
        ("gemma", {"unk_token": None}, "lacks the token for unknown text"),
        ("gemma", {"merges": [["a", "m"], ["▁", "n"], ["u", "b"]]}, "do not follow from one score"),
        ("gemma", {"dropout": 0.1}, "neither a byte-level BPE nor SentencePiece's"),
    ],
)
def test_vocabularies_of_sentencepiece_that_cannot_be_written(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_tokenizer_of(tmp_path, kind, **changes)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_has_llama_cpp_s_name(tmp_path: Path, rule: str) -> None:
    size = with_rule(tmp_path, rule)
    tokenizer = read_tokenizer(tmp_path, size + 2)
    assert tokenizer.pre == RULES[rule][1]
    assert (len(tokenizer.tokens), tokenizer.types[0], tokenizer.types[-2:]) == (size + 2, 3, [5, 5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "no known name for the rule"),
        ({"pre_tokenizer": BYTES | {"add_prefix_space": True}}, "no known name for the rule"),
        ({"normalizer": {"type": "Lowercase"}}, "no known name for the rule"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "neither a byte-level BPE nor SentencePiece"),
    ],
)
def test_tokenizers_that_cannot_be_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    size = save_bpe(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        read_tokenizer(tmp_path, size)
    save_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="merges nothing"):
        read_tokenizer(tmp_path, size)


def test_a_special_token_without_a_row_is_left_out(tmp_path: Path) -> None:
    size = save_bpe(tmp_path)
    path = tmp_path / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    token = {"id": size, "content": "<image>", "special": True, "lstrip": True}
    settings["added_tokens"].append(token)
    path.write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path, size)
    assert len(tokenizer.tokens) == size
    assert "<image>" not in tokenizer.tokens
    settings["added_tokens"][-1] = token | {"special": False, "lstrip": False}
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match=f"the tokenizer has the token {size}, and the embedding {size} rows"):
        read_tokenizer(tmp_path, size)


RECORD = Record("1", (Fact(None, "name", "Blue Spice"), Fact(None, "area", "Rue d'Été 24")), ())
CHAT = "{% for m in messages %}<|endoftext|>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
FORMS: dict[str, dict[str, Any]] = {
    "arrow": META,
    "paper": META | {"prompt_form": "paper", "linearization": "plain"},
    "chat": META | {"prompt_form": "chat", "chat_template": CHAT, "end_token_id": 0},
    "ready prompts": META | {"prompt_source": "text"},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_template_gives_the_prompts_of_training(tmp_path: Path, form: str) -> None:
    server = pytest.importorskip("llama_cpp_server")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_base(base, "llama", tokenizer=save_bpe)
    save_adapter(adapter, str(base), meta={"end_token_id": 0} | FORMS[form])
    output = converted(adapter, tmp_path / "out")
    prompts = PromptFormat.of_meta(FORMS[form], Tokenizer.from_folder(base), base)
    ready = form == "ready prompts"
    record = Record("1", (), (), prompt="Say it politely:") if ready else RECORD
    line = {"paper": "name: Blue Spice; area: Rue d'Été 24", "ready prompts": "Say it politely:"}
    text = line.get(form, "name : Blue Spice | area : Rue d'Été 24")
    modelfile = (output / "Modelfile").read_text(encoding="utf-8")
    found = re.search('TEMPLATE """(.*?)"""', modelfile, re.DOTALL)
    assert found is not None
    whole = found[1].replace("{{ .Prompt }}", text)
    with server.LlamaCpp(output / "model.gguf") as llama_cpp:
        assert llama_cpp.tokens(whole, special=True) == list(prompts.encode([record])[0])
    for line_ in ("FROM ./model.gguf", "PARAMETER temperature 0", 'PARAMETER stop "<|endoftext|>"'):
        assert line_ in modelfile.splitlines()


def test_metadata_and_licence(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, "llama")
    (base / "LICENSE").write_text("Use it {{ well }}.", encoding="utf-8")
    (base / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A base\n", encoding="utf-8")
    output = converted(adapter, tmp_path / "out", "q8_0")
    fields = {name: field.contents() for name, field in GGUFReader(output / "model.gguf").fields.items()}
    wanted = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.license": "apache-2.0",
        "general.file_type": 7,
        "general.base_model.0.name": "base",
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {name: fields[name] for name in wanted} == wanted
    assert 'LICENSE """Use it {{ well }}."""' in (output / "Modelfile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gemma3_text", {}, "a window in all blocks but every 6th"),
        ("gemma3_text", GEMMA | {"rope_local_base_freq": 50.0}, "the rotary base 10000"),
        ("gemma3_text", GEMMA | {"query_pre_attn_scalar": 12}, "scales attention by the width of a head"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "attends to all tokens"),
        ("qwen3", {"attention_bias": True}, "has biases that llama.cpp does not load"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "does not know the field factor"),
    ],
)
def test_models_that_llama_cpp_would_compute_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setitem(SHAPES, kind, SHAPES[kind] | changes)
    _, adapter = saved(tmp_path, kind)
    with pytest.raises(ModelError, match=f"cannot be written as GGUF: .*{message}"):
        converted(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    values: dict[str, Any] = {"adapter": tmp_path, "output": tmp_path / "out"}
    with pytest.raises(SettingsError, match=r"only a GGUF model is written merged; use --to gguf"):
        ConvertSettings(to="peft", merged=True, **values)
    with pytest.raises(SettingsError, match="only the type of a merged model can be chosen; add --merged"):
        ConvertSettings(to="gguf", storage="q8_0", **values)
    save_base(tmp_path / "base", "llama", tokenizer=save_bpe)
    foreign = save_adapter(tmp_path / "foreign", str(tmp_path / "base"), meta={})
    with pytest.raises(SettingsError, match="does not say how its prompts were built"):
        converted(foreign, tmp_path / "out")
