"""Compare an engine's backend with transformers on one prompt before it is used.

A network is read from its configuration twice, by transformers and by the engine. The check compares the distributions
of the next token after each token of a prompt. The backend computes them in two steps, with its paged cache and
together with another sequence. The check runs once for each model, backend, precision and set of packages on a
machine, and its result is stored in the cache folder.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tailora.core import machine_cache
from tailora.core.errors import ModelError, SettingsError
from tailora.core.hardware.memory import memory
from tailora.engine.arrays import Floats
from tailora.engine.backend import Backend, Step
from tailora.models.weights import weight_files

log = logging.getLogger(__name__)
Mode = Literal["once", "always", "never"]
VARIABLE = "TAILORA_SELF_CHECK"
TOKENS = 48  # of the prompt; a rotary scaling shows within ten
# Largest accepted mean Kullback-Leibler divergence in nats. Measured on SmolLM2-135M with
# this prompt: 1e-10 in fp32, 0.002 in bf16, 0.025 in int8, whose cache has 8 bits too.
BOUND = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.1}
_TIMEOUT = 300.0  # seconds for transformers to load a model in its own process


def mode() -> Mode:
    """Return the value of the environment variable TAILORA_SELF_CHECK: once (the default), always or never.

    Raises:
        SettingsError: it has another value.
    """
    value = os.environ.get(VARIABLE) or "once"
    if value not in ("once", "always", "never"):
        raise SettingsError(f"{value!r} is not once, always or never", where=VARIABLE, hint="use one of these words")
    return value  # type: ignore[return-value]


def check(
    backend: Backend,
    key: Mapping[str, Any],
    precision: str,
    reference: Callable[[list[int]], Floats | None],
    *,
    hint: str,
) -> None:
    """Compare a new backend with transformers, unless this was done before.

    Args:
        backend: the backend of a model. If adapters are part of its network, the reference has them too.
        key: everything that the result depends on besides the precision: the model, its configuration, the backend.
        precision: precision of the backend.
        reference: transformers' logits [tokens, vocabulary] after each token of a prompt; None if there are none.
        hint: what to do if the two differ.

    Raises:
        ModelError: the distributions are too far apart.
    """
    asked = mode()
    if asked == "never":
        return
    whole = {**key, "precision": precision}
    apart = machine_cache.recall("self-check", whole, _is_divergence) if asked == "once" else None
    if apart is None:
        log.warning("comparing the engine with transformers once for this model on this machine")
        prompt = probe(backend)
        expected = reference(prompt)
        if expected is None:
            return
        apart = divergence(expected, logits_of(backend, prompt))
        apart = apart if math.isfinite(apart) else 1e9  # JSON has no NaN
        machine_cache.keep("self-check", whole, apart)
    if not apart <= BOUND[precision]:
        what = f"its distributions differ from those of transformers by {apart:.3g} nats (limit {BOUND[precision]:g})"
        raise ModelError(f"the self-check of the engine failed: {what}", hint=hint)


def _is_divergence(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def probe(backend: Backend) -> list[int]:
    """Return the token ids of the prompt, spread over the vocabulary."""
    count = max(2, min(TOKENS, backend.context - 1))
    return [int(token) for token in np.random.default_rng(0).integers(0, backend.vocabulary, count)]


def logits_of(backend: Backend, prompt: list[int]) -> Floats:
    """Compute a backend's logits [tokens, vocabulary] after each token of a prompt, in two steps."""
    half = len(prompt) // 2
    needed = -(-len(prompt) // backend.block_size)
    blocks = list(range(1, needed + 1)) if backend.blocks > needed else list(range(needed))
    parts = []
    for first, last in ((0, half), (half, len(prompt))):
        # Another sequence runs beside it, in another block, if the cache has a spare one.
        other = prompt[:1] if backend.blocks > needed and first == 0 else []
        tokens, counts = [*prompt[first:last], *other], [last - first, *([1] if other else [])]
        begins = np.cumsum([0, *counts], dtype=np.int32)
        step = Step(
            tokens=np.array(tokens, np.int32),
            positions=np.array([*range(first, last), *([0] if other else [])], np.int32),
            past=np.array([first, *([0] if other else [])], np.int32),
            begins=begins,
            blocks=np.array([*blocks, *([0] if other else [])], np.int32),
            block_begins=np.array([0, needed, *([needed + 1] if other else [])], np.int32),
            slots=np.full((len(tokens), 1), -1, np.int32),
            scales=np.ones((len(tokens), 1), np.float32),
            sampled=np.arange(last - first, dtype=np.int32),
            best=1,
        )
        parts.append(backend.run(step).logits.copy())
    return np.concatenate(parts)


def divergence(reference: Floats, own: Floats) -> float:
    """Return the mean Kullback-Leibler divergence, in nats, between the distributions of two arrays of logits.

    Args:
        reference: [tokens, vocabulary].
        own: [tokens, vocabulary].
    """
    first, second = (_log_softmax(logits.astype(np.float64)) for logits in (reference, own))
    return float((np.exp(first) * (first - second)).sum(axis=1).mean())


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities


def reference_of(folder: Path, prompt: list[int]) -> Floats | None:
    """Return transformers' logits in fp32, or None if they cannot be computed.

    They are computed in a separate process unless PyTorch is already loaded. PyTorch takes seconds to load and some
    hundred megabytes of memory.
    """
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        log.warning(
            "self-check skipped: %s not installed", " and ".join(missing) + (" is" if len(missing) == 1 else " are")
        )
        return None
    values = sum(path.stat().st_size for path in weight_files(folder)) * 2  # fp32 of what is mostly stored in 16 bits
    available = memory().available
    if available is not None and values > 0.7 * available:
        log.warning("self-check skipped: the model in fp32 does not fit into memory")
        return None
    if "torch" in sys.modules:
        return reference_logits(folder, prompt)
    try:
        with tempfile.TemporaryDirectory() as place:
            return _reference_of_process(folder, prompt, Path(place) / "logits.npy")
    except (OSError, subprocess.TimeoutExpired) as error:  # also without a place for temporary files
        log.warning("self-check skipped: %s", error)
        return None


def _reference_of_process(folder: Path, prompt: list[int], target: Path) -> Floats | None:
    """Compute the logits in a separate process, which writes them to a file."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "tailora.inference.self_check",
        str(folder),
        str(target),
        json.dumps(prompt),
    ]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=_TIMEOUT
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
        log.warning("self-check skipped: transformers cannot run the model (%s)", reason)
        return None
    loaded: Floats = np.load(target)
    return loaded


def reference_logits(folder: Path, prompt: list[int]) -> Floats:
    """Compute transformers' logits [tokens, vocabulary] in fp32 after each token of a prompt."""
    import torch

    from tailora.models.load import load_base

    model = load_base(str(folder), dtype=torch.float32).model
    with torch.inference_mode():
        logits: Floats = model(torch.tensor([prompt])).logits[0].float().numpy()
    return logits


if __name__ == "__main__":
    np.save(sys.argv[2], reference_logits(Path(sys.argv[1]), json.loads(sys.argv[3])))
