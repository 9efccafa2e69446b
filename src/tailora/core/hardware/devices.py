"""Devices to compute on, by PyTorch's names. PyTorch is imported only where a device is chosen."""

from __future__ import annotations

import importlib.util
import sys

from tailora.core.errors import SettingsError


def choose_device(device: str) -> str:
    """Return the device to compute on: the one named, and for "auto" a GPU if PyTorch is installed and sees one.

    Raises:
        SettingsError: PyTorch has no such device on this machine.
    """
    if device == "auto" and importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depends on the kind of device
        hint = "use cpu; cuda needs an NVIDIA GPU and a PyTorch built for it"
        raise SettingsError(f"PyTorch has no device {device!r} on this machine", where="device", hint=hint) from error
    return device


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
