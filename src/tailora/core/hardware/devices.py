"""Devices to compute on, by PyTorch's names. PyTorch is imported only where a device is chosen."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Sequence

from tailora.core.errors import SettingsError
from tailora.core.hardware.processor import granted_cores

log = logging.getLogger(__name__)


def choose_device(device: str) -> str:
    """Return the device to compute on: the one named, and for "auto" a GPU if PyTorch sees one and has kernels for it.

    Raises:
        SettingsError: PyTorch has no such device on this machine, or no kernels for it.
    """
    if device == "auto" and importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    if device == "auto":
        problem = _problem_of_gpu("cuda") if torch.cuda.is_available() else None
        if problem is not None:
            _warn_once(f"{problem}; computing on the CPU")
        return "cuda" if torch.cuda.is_available() and problem is None else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depends on the kind of device
        hint = "use cpu; cuda needs an NVIDIA GPU and a PyTorch built for it"
        raise SettingsError(f"PyTorch has no device {device!r} on this machine", where="device", hint=hint) from error
    if torch.device(device).type == "cuda" and (problem := _problem_of_gpu(device)) is not None:
        raise SettingsError(problem, where="device", hint="use cpu, or a PyTorch that was built for this GPU")
    return device


def _problem_of_gpu(device: str) -> str | None:
    """Return why PyTorch cannot compute on a GPU that it sees; None if it can."""
    import torch

    try:
        capability = torch.cuda.get_device_capability(device)
    except RuntimeError as error:  # the driver fails, or this process was forked from one that uses the GPU
        return f"PyTorch cannot use the GPU ({(str(error).splitlines() or ['no reason given'])[0].rstrip('.')})"
    if has_kernels(capability, torch.cuda.get_arch_list()):
        return None
    name, (major, minor) = torch.cuda.get_device_name(device), capability
    return f"PyTorch {torch.__version__} was built without kernels for {name} (compute capability {major}.{minor})"


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether a PyTorch that was built for some architectures computes on an NVIDIA GPU.

    Kernels for sm_XY run on GPUs of compute capability X.Y and on later ones with the same X; compute_XY is code that
    the driver compiles for any later GPU.

    Args:
        capability: the GPU's compute capability, as (major, minor).
        architectures: names such as "sm_86" or "compute_120". Without any of this form, as for AMD's GPUs, the result
            is True.
    """
    matches = [match for name in architectures if (match := re.match(r"(sm|compute)_(\d+)(\d)", name))]
    built = [(match[1], (int(match[2]), int(match[3]))) for match in matches]
    return not built or any(own <= capability and (kind == "compute" or own[0] == capability[0]) for kind, own in built)


@functools.cache
def _warn_once(text: str) -> None:
    log.warning(text)


def limit_threads() -> None:
    """Let PyTorch use no more CPU threads than a CPU limit grants cores, unless the environment sets their number.

    PyTorch counts the cores that it sees. In a container with a CPU limit, a thread for each of them uses up the
    container's time in a part of every period, and all are suspended for the rest.
    """
    granted = granted_cores()
    if granted is None or not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}.isdisjoint(os.environ):
        return
    import torch

    if torch.get_num_threads() > granted:
        torch.set_num_threads(granted)


def gpu_name(device: str = "cuda") -> str | None:
    """Return a CUDA device's name; None where PyTorch is not loaded (a name is not worth loading it) or sees none."""
    torch = sys.modules.get("torch")
    if torch is None or torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name(device))


def peak_gpu_memory(device: str = "cuda") -> int | None:
    """Return the peak bytes of PyTorch's tensors on a GPU since this process started; None elsewhere.

    Args:
        device: as PyTorch names it; "cuda" is the current GPU, "cuda:1" the second.
    """
    torch = sys.modules.get("torch")
    if torch is None or torch.device(device).type != "cuda" or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated(device))
