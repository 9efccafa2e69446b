"""The 8-bit kernels on a CPU that has, or is limited to, AVX2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailora.training import int8

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not int8.supported(), reason="this CPU has no AVX2 instructions")
def test_the_kernels_of_a_cpu_with_avx2_alone_agree() -> None:
    """Products are exact, layers close, gradients those of the plain forward pass: the same tests, limited."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    chosen = "test_int8 or (llama-lora or gpt2-lora) and one and not head and not biases"
    files = ["tests/test_int8.py", "tests/test_precision.py"]
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen],
        cwd=ROOT,
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout
    assert " passed" in shown.stdout
    assert " skipped" not in shown.stdout
