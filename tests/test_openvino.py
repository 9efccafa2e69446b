"""The OpenVINO backend in fp32 against transformers: logits of mixed steps, paged and with adapters in slots."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bases import KINDS, save_base
from tailora.adapters.config import LoraConfig
from tailora.core.errors import ModelError
from tailora.core.files import write_json
from tailora.engine.backend import Step
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.lora.inject import attach, extract

_LAYERS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "embed_tokens", "lm_head")
LAYERS = dict.fromkeys(KINDS, _LAYERS) | {"gpt2": ("attn.c_attn", "mlp.c_fc", "wte", "lm_head")}


def step_of(
    tokens: Sequence[Sequence[int]],
    past: Sequence[int],
    blocks: Sequence[Sequence[int]],
    slots: Sequence[int],
    scales: Sequence[float] | None = None,
) -> Step:
    """A step that asks for the logits after every token."""
    counts = [len(each) for each in tokens]
    total = sum(counts)
    positions = [past[i] + j for i, count in enumerate(counts) for j in range(count)]
    return Step(
        tokens=np.array([token for each in tokens for token in each], np.int32),
        positions=np.array(positions, np.int32),
        past=np.array(past, np.int32),
        begins=np.cumsum([0, *counts], dtype=np.int32),
        blocks=np.array([block for each in blocks for block in each], np.int32),
        block_begins=np.cumsum([0, *map(len, blocks)], dtype=np.int32),
        slots=np.repeat(np.array(slots, np.int32), counts)[:, None],
        scales=np.repeat(np.array(scales or [1.0] * len(counts), np.float32), counts)[:, None],
        sampled=np.arange(total, dtype=np.int32),
        best=3,
    )


def logits_of(model: Any, tokens: Sequence[int]) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([list(tokens)])).logits[0])


@pytest.mark.parametrize(
    ("kind", "tied", "rows"),
    [*((kind, True, 0) for kind in KINDS), ("llama", False, 0), ("gpt2", True, 17 * 31)],
)
def test_steps_over_paged_caches(tmp_path: Path, kind: str, tied: bool, rows: int) -> None:
    model = save_base(tmp_path, kind, tied=tied, rows=rows)  # 257 logits are searched at once, 527 in blocks
    backend = OpenVinoBackend(tmp_path, precision="fp32", cache_tokens=256, slots=0, threads=1)
    one, two = list(range(1, 41)), [5, 6, 7]
    scores = backend.run(step_of([one[:35], two], [0, 0], [[3, 1], [0]], [-1, -1]))
    first = scores.logits.copy()
    np.testing.assert_array_equal(scores.tokens, np.argsort(-first, axis=1)[:, :3])
    np.testing.assert_allclose(scores.log_z, np.logaddexp.reduce(first, axis=1), rtol=1e-5)
    np.testing.assert_allclose(first, np.concatenate([logits_of(model, one[:35]), logits_of(model, two)]), atol=1e-4)
    backend.copy_blocks([(3, 6)])
    second = backend.run(step_of([one[35:], [9]], [35, 3], [[6, 1], [0]], [-1, -1])).logits.copy()
    expected = np.concatenate([logits_of(model, one)[35:], logits_of(model, [*two, 9])[3:]])
    np.testing.assert_allclose(second, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [8, 1])
def test_every_row_has_its_own_adapter(tmp_path: Path, kind: str, grouped: int) -> None:
    base = save_base(tmp_path, kind)
    backend = OpenVinoBackend(
        tmp_path, precision="fp32", cache_tokens=256, slots=2, rank=6, layers=LAYERS[kind], grouped=grouped, threads=1
    )
    prompt = [7, 3, 9, 4, 1]
    expected = [logits_of(base, prompt)]
    slots = [-1]
    for seed, targets in enumerate([LAYERS[kind], ("attention.qv",)]):
        model = save_base(tmp_path / "again", kind)
        attach(model, LoraConfig(rank=3, alpha=6, targets=targets))
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        expected.append(logits_of(model, prompt))
        backend.adapter_slots.register(str(seed), extract(model))
        slots += backend.adapter_slots.acquire([str(seed)]) or ()
    assert np.abs(expected[1] - expected[0]).max() > 0.1
    rows = backend.run(step_of([prompt] * 3, [0] * 3, [[0], [1], [2]], slots)).logits.copy()
    np.testing.assert_allclose(rows, np.concatenate(expected), atol=1e-4)
    # With the scale 0 an adapter is off; an overflow of one slot stays in its own rows.
    for path in backend.adapter_slots.layers:
        backend.adapter_slots.place(path, slots[2])[0][0] = np.inf
    rows = backend.run(
        step_of([prompt] * 3, [0] * 3, [[0], [1], [2]], [slots[1], slots[1], slots[2]], [0, 1, 1])
    ).logits
    np.testing.assert_allclose(rows[:10], np.concatenate(expected[:2]), atol=1e-4)
    assert not np.isfinite(rows[10:]).all()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize(("slots", "grouped"), [(1, 4), (3, 4), (3, 2), (3, 1)])
def test_steps_of_one_adapter_and_of_several(tmp_path: Path, kind: str, slots: int, grouped: int) -> None:
    """A step reads only what it needs of the factors: those of one slot, of one group or all."""
    base = save_base(tmp_path, kind)
    layers = ("attn.c_attn", "mlp.c_proj") if kind == "gpt2" else ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
    backend = OpenVinoBackend(
        tmp_path, precision="fp32", cache_tokens=256, slots=slots, rank=6, layers=layers, grouped=grouped, threads=1
    )
    prompt = [7, 3, 9, 4, 1]
    expected = [logits_of(base, prompt)]
    for seed in range(slots):
        model = save_base(tmp_path / "again", kind)
        attach(model, LoraConfig(rank=2 + seed, alpha=6, targets=layers[seed % len(layers) :]))
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        expected.append(logits_of(model, prompt))
        backend.adapter_slots.register(str(seed), extract(model))
        assert backend.adapter_slots.acquire([str(seed)]) == (seed,)
    steps = [[slot] for slot in range(-1, slots)] + [[0, 0], [-1, slots - 1], list(range(-1, slots)), [slots - 1]]
    for used in steps:
        step = step_of([prompt] * len(used), [0] * len(used), [[place] for place in range(len(used))], used)
        rows = backend.run(step).logits
        np.testing.assert_allclose(rows, np.concatenate([expected[slot + 1] for slot in used]), atol=1e-4)


def test_what_it_has_no_graph_for(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    config = {"model_type": "bloom"}
    write_json(tmp_path / "bloom" / "config.json", config)
    with pytest.raises(ModelError, match="no graph for the architecture 'bloom'; use --backend torch"):
        OpenVinoBackend(tmp_path / "bloom")
    with pytest.raises(ModelError, match="no layer ends in q_proj"):
        OpenVinoBackend(tmp_path / "base", layers=("q_proj",))


def test_an_engine_runs_without_torch(tmp_path: Path) -> None:
    save_base(tmp_path)
    program = f"""
import sys
from pathlib import Path
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.engine.engine import Engine
from tailora.engine.requests import Request
backend = OpenVinoBackend(Path({str(tmp_path)!r}), slots=0, cache_tokens=512)
(completions,) = Engine(backend, end=0, sequences=4).complete([Request((1, 2, 3))])
assert completions[0].token_ids
print(sorted({{"torch", "transformers"}} & sys.modules.keys()))
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal handlers of this kind")
def test_a_signal_is_handled_after_a_backend_was_dropped_in_another_thread(tmp_path: Path) -> None:
    """OpenVINO's CPU plugin replaces the stack of signal handlers, and frees it in the thread that drops the plugin."""
    save_base(tmp_path / "base")
    program = (
        "import os, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from tailora.engine.backends.openvino import OpenVinoBackend\n"
        "backends = [OpenVinoBackend(Path(sys.argv[1]), precision='fp32', slots=0)]\n"
        "thread = threading.Thread(target=backends.clear)\n"
        "thread.start()\n"
        "thread.join()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "base")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
