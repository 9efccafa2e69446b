"""The 8-bit kernels under every instruction set that a CPU of today can be limited to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailora.training import int8

HERE = Path(__file__).parent


@pytest.mark.skipif(not int8.supported(), reason="this CPU has no AVX2 instructions")
@pytest.mark.parametrize(
    "limits",
    [{"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}],
    ids=["oneDNN", "oneDNN and ATen"],
)
def test_the_kernels_of_a_cpu_with_avx2_alone_agree(limits: dict[str, str]) -> None:
    """Products are exact, layers close, gradients those of the plain forward pass: the same tests, limited."""
    chosen = "test_int8 or (llama-lora or gpt2-lora) and one and not head and not biases"
    files = ["test_int8.py", "test_precision.py"]
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen],
        cwd=HERE,
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout
    assert " passed" in shown.stdout
    assert " skipped" not in shown.stdout
