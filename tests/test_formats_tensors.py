"""Files of tensors: widths, torch's pickles, and damaged or hostile files of either kind."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adapters import small
from tailora.adapters import formats
from tailora.adapters.formats import peft
from tailora.adapters.formats.tensors import read_torch
from tailora.core.errors import AdapterError


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_widths_are_read_as_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    file = tmp_path / "adapter_model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    found = peft.load(tmp_path).layers["proj"].branches[0]
    assert found.a.dtype == np.float32
    assert np.array_equal(found.a, tensors["base_model.model.proj.lora_A.weight"].float().numpy())


def test_torch_file_is_read_when_it_is_all_there_is(tmp_path: Path) -> None:
    adapter = small()
    peft.save(adapter, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter_model.bin")
    file.unlink()
    assert peft.load(tmp_path).content_hash == adapter.content_hash


STRETCHED: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "one number over 32 GB": lambda: {"proj.lora_A.weight": torch.zeros(1).expand(1 << 17, 1 << 16)},
    "one number in each row": lambda: {"proj.lora_A.weight": torch.zeros(1 << 17, 1).expand(-1, 1 << 16)},
    "windows that overlap": lambda: {"proj.lora_A.weight": torch.zeros(1 << 17).as_strided((1 << 16, 1 << 16), (1, 1))},
    "many names for one": lambda: dict.fromkeys((f"proj.{n}.lora_A.weight" for n in range(999)), torch.zeros(1 << 16)),
    "16 bits": lambda: {"proj.lora_A.weight": torch.zeros(1, dtype=torch.bfloat16).expand(1 << 17, 1 << 16)},
}


@pytest.mark.parametrize("case", STRETCHED)
@pytest.mark.parametrize("form", ["peft", "loralib", "loralib wrapped"])
def test_a_small_file_that_asks_for_gigabytes_is_one_error(tmp_path: Path, case: str, form: str) -> None:
    state = STRETCHED[case]()
    if form == "peft":
        peft.save(small(), tmp_path)
        (tmp_path / "adapter_model.safetensors").unlink()
        file = tmp_path / "adapter_model.bin"
    else:
        file = tmp_path / "lora.bin"
        state = {name.removesuffix(".weight"): tensor for name, tensor in state.items()}
    torch.save({"model_state_dict": state} if form == "loralib wrapped" else state, file)
    assert file.stat().st_size < 1 << 20
    with pytest.raises(AdapterError, match="more numbers than the file contains"):
        formats.load(tmp_path if form == "peft" else file)


def _half(value: torch.Tensor) -> torch.Tensor:
    return torch.complex(torch.zeros_like(value), value).conj().imag


STRANGE: dict[str, Callable[[torch.Tensor], Any]] = {
    "nested": lambda value: torch.nested.nested_tensor([value, value]),
    "sparse": lambda value: value.to_sparse(),
    "sparse rows": lambda value: value.to_sparse_csr(),
    "without values": lambda value: value.to("meta"),
    "complex": lambda value: value.to(torch.complex64),
    "integers": lambda value: value.to(torch.int32),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", STRANGE)
def test_tensors_of_another_kind_are_one_error(tmp_path: Path, case: str) -> None:
    torch.save({"proj.lora_A.weight": STRANGE[case](torch.ones(3, 4))}, tmp_path / "a.bin")
    with pytest.raises(AdapterError, match=r"a\.bin: .*(dense floating-point tensor|cannot be read as tensors)"):
        read_torch(tmp_path / "a.bin")


def test_a_view_with_another_sign_has_its_values(tmp_path: Path) -> None:
    torch.save({"a": _half(torch.ones(3))}, tmp_path / "a.bin")
    assert np.array_equal(read_torch(tmp_path / "a.bin")["a"], -np.ones(3))
    torch.save({1: torch.ones(3), "1": torch.zeros(3)}, tmp_path / "a.bin")
    with pytest.raises(AdapterError, match="something other than named tensors"):
        read_torch(tmp_path / "a.bin")


def test_an_archive_that_unpacks_to_much_more_is_one_error(tmp_path: Path) -> None:
    torch.save({"proj.lora_A": torch.zeros(1 << 24)}, tmp_path / "whole.bin")
    bomb = tmp_path / "lora.bin"
    with zipfile.ZipFile(tmp_path / "whole.bin") as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(AdapterError, match=r"would unpack from [\d,]+ to 67,\d+,\d+ bytes"):
        formats.load(bomb)


class Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04\x95", {"x": Boom()}, {"x": 3}, [1, 2]])
def test_hostile_torch_file_is_one_error_and_runs_nothing(
    tmp_path: Path, content: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    peft.save(small(), tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    file = tmp_path / "a" / "adapter_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(AdapterError, match=r"adapter_model\.bin"):
        peft.load(tmp_path / "a")
    assert not (tmp_path / "executed").exists()


HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "header of a gigabyte": struct.pack("<Q", 2**30) + b"{}",
    "nested header": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "header beyond the file": struct.pack("<Q", 5000) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"abcd",
    "offsets beyond": struct.pack("<Q", 66) + b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}      ',
    "overflowing shape": struct.pack("<Q", 90)
    + b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}'.ljust(90),
    "integers": struct.pack("<Q", 60) + b'{"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}'.ljust(60) + b"\0" * 4,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_safetensors_is_one_error(tmp_path: Path, case: str) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(HOSTILE[case])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: "):
        peft.load(tmp_path)


@given(cut=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_truncated_file_is_one_error(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    peft.save(small(), folder)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(AdapterError):
        peft.load(folder)
