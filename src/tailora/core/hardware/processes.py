"""Other processes of this machine."""

from __future__ import annotations

import ctypes
import os
import sys

if sys.platform == "win32":
    from ctypes import wintypes


def process_lives(pid: int) -> bool:
    """Return whether the process with this number runs on this machine."""
    return _runs(pid)


if sys.platform == "win32":

    def _runs(pid: int) -> bool:
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.OpenProcess.restype = wintypes.HANDLE
        handle = kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = wintypes.DWORD()
        kernel32.GetExitCodeProcess(wintypes.HANDLE(handle), ctypes.byref(code))
        kernel32.CloseHandle(wintypes.HANDLE(handle))
        return code.value == 259  # STILL_ACTIVE

else:

    def _runs(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return True
