"""loralib's state dicts that must be refused, each with one error."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats import loralib
from tailora.core.errors import AdapterError
from test_formats_loralib import adapter_of, numbers, qv_layer


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not run",))


def refused(path: Path, **arguments: Any) -> Any:
    arguments.setdefault("alpha", 1)
    with pytest.raises(AdapterError) as caught:
        loralib.load(path, **arguments)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


GOOD = {"fc.lora_A": torch.ones(2, 3), "fc.lora_B": torch.ones(4, 2)}


class TestRefusals:
    def saved(self, tmp_path: Path, content: Any) -> Any:
        torch.save(content, tmp_path / "a.pt")
        return tmp_path / "a.pt"

    def test_code(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "could run code" in refused(self.saved(tmp_path, {**GOOD, "x": Hostile()}))
        (tmp_path / "raw.pt").write_bytes(pickle.dumps(Hostile()))
        assert "cannot be read as tensors" in refused(tmp_path / "raw.pt")
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 0.99])
    def test_truncated(self, tmp_path: Path, share: float) -> None:
        path = self.saved(tmp_path, GOOD)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        assert "cannot be read as tensors" in refused(path)

    @pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x80\x02", b'{"json": 1}', bytes(range(256))])
    def test_foreign(self, tmp_path: Path, content: Any) -> None:
        (tmp_path / "a.pt").write_bytes(content)
        assert "cannot be read as tensors" in refused(tmp_path / "a.pt")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
    @pytest.mark.filterwarnings("ignore")
    def test_a_changed_byte_never_escapes_as_another_error(self, tmp_path: Path, position: Any, value: Any) -> None:
        path = self.saved(tmp_path, GOOD)
        content = bytearray(path.read_bytes())
        content[int(position * len(content))] = value
        path.write_bytes(content)
        try:
            adapter = loralib.load(path, alpha=1)
        except AdapterError:
            return
        assert all(np.isfinite(branch.a).all() for branch in adapter.layers["fc"].branches)

    def test_an_archive_that_claims_several_disks(self, tmp_path: Path) -> None:
        path = self.saved(tmp_path, GOOD)
        content = bytearray(path.read_bytes())
        content[content.rindex(b"PK\x06\x07") + 16] = 2  # of the locator of the zip64 directory: how many disks
        path.write_bytes(content)
        assert "cannot be read as tensors: the archive is damaged" in refused(path)

    def test_missing_and_folder(self, tmp_path: Path) -> None:
        assert "no such file" in refused(tmp_path / "none.pt")
        assert "no such file" in refused(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "contains a list, not a state dict"),
            (torch.ones(2), "contains a Tensor, not a state dict"),
            ({}, "it contains no lora_A or lora_B"),
            ({"fc.weight": torch.ones(2, 2)}, r"1 tensors do not belong to an adapter \(fc.weight"),
            ({**dict[Any, Any](GOOD), 3: torch.ones(2)}, "the key 3 is not a string"),
            ({**GOOD, "x": 3}, "x is a int, not a tensor"),
            ({"fc.lora_A": torch.ones(2, 3)}, "fc has only lora_A"),
            ({**GOOD, "base_model.model.x.lora_A.weight": torch.ones(2, 3)}, "not a key of loralib's"),
            ({**GOOD, "module.fc.lora_A": torch.ones(2, 3)}, "fc.lora_A occurs twice"),
            ({**GOOD, "fc.lora_A": torch.ones(3, 3)}, "do not match"),
            ({**GOOD, "fc.lora_A": torch.ones(2)}, r"has the shape \[2\], not 2 dimensions"),
            ({**GOOD, "fc.lora_A": torch.ones(0, 3)}, r"has the shape \[0, 3\]"),
            ({**GOOD, "fc.lora_A": torch.ones(2, 3).long()}, "is not a dense floating-point tensor"),
            ({**GOOD, "fc.lora_A": torch.ones(2, 3).to_sparse()}, "is not a dense floating-point tensor"),
            ({**GOOD, "fc.lora_A": torch.full((2, 3), torch.nan)}, "fc.lora_A contains values that are not finite"),
            ({**GOOD, "fc.bias": torch.tensor([torch.inf])}, "fc.bias contains values that are not finite"),
            ({**GOOD, "fc.lora_A": torch.ones(1).expand(10**6, 10**6)}, "claims more numbers than the file contains"),
            ({"model_state_dict": GOOD, "tailora": "{"}, "note in it is damaged"),
            ({"model_state_dict": GOOD, "tailora": '{"alpha": 3}'}, "note in it is damaged"),
            ({"model_state_dict": GOOD, "tailora": 7}, "note in it is damaged"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*parse invariant checks.*", "ignore:Sparse invariant checks")
    def test_content(self, tmp_path: Path, content: Any, message: str) -> None:
        path = self.saved(tmp_path, content)
        with pytest.raises(AdapterError, match=message):
            loralib.load(path, alpha=1)

    def test_every_fault_stands_in_one_error(self, tmp_path: Path) -> None:
        path = self.saved(tmp_path, {"a.lora_A": torch.ones(2), "b.lora_B": torch.ones(2, 2), "c": torch.ones(1)})
        message = refused(path)
        assert all(part in message for part in ("a.lora_A has the shape", "b has only lora_B", "(c, …)"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"alpha": None}, "pass alpha="),
            ({"alpha": {"gc": 1}}, "'gc' matches no module"),
            ({"alpha": 0}, "not a positive number"),
            ({"alpha": float("nan")}, "not a positive number"),
            ({"enable_lora": {"fc": [True, True]}}, "has 1 adapted slices, not the 2 of enable_lora"),
            ({"embeddings": ["wte"]}, "'wte' matches no module"),
            ({"fan_in_fan_out": ["wte"]}, "'wte' matches no module"),
            ({"kernels": {"fc": (3, 3)}}, r"do not fit a kernel of \[3, 3\]"),
            ({"kernels": {"fc": (0,)}}, r"cannot have a kernel of \[0\]"),
        ],
    )
    def test_answers_that_do_not_fit(self, tmp_path: Path, arguments: Any, message: str) -> None:
        with pytest.raises(AdapterError, match=message):
            loralib.load(self.saved(tmp_path, GOOD), **{"alpha": 1, **arguments})

    def test_what_cannot_be_written(self, tmp_path: Path) -> None:
        dora = dataclasses.replace(qv_layer(), magnitude=numbers(18))
        unequal = [LowRank(numbers(1, 4), numbers(high - low, 1), 1.0, (low, high)) for low, high in [(0, 4), (4, 7)]]
        uneven = LayerAdapter("linear", tuple(unequal))
        broken = LayerAdapter("linear", (LowRank(numbers(1, 4) * np.inf, numbers(4, 1), 1.0),))
        with pytest.raises(AdapterError) as caught:
            loralib.save(adapter_of(a=dora, b=uneven, c=broken), tmp_path / "a.pt")
        message = str(caught.value)
        assert "a has a DoRA magnitude, which loralib cannot represent" in message
        assert "b adapts the outputs 0:4, 4:7" in message
        assert "c.lora_A contains values that are not finite" in message
        with pytest.raises(AdapterError, match="has no layers"):
            loralib.save(Adapter(LoraConfig(), {}), tmp_path / "a.pt")
        whole = LayerAdapter("linear", (LowRank(numbers(1, 4), numbers(5, 1), 1.0),))
        with pytest.raises(AdapterError, match="has 5 outputs, which 3 equal slices cannot share"):
            loralib.save(adapter_of(fc=whole), tmp_path / "a.pt", slices={"fc": 3})
        assert list(tmp_path.iterdir()) == []
