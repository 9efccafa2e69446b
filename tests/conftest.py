"""What all tests share: no hub, a cache of their own, one thread, repeatable property tests, the shared folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before a test module imports PyTorch, transformers or matplotlib.
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "MPLBACKEND": "Agg"}
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Every engine that a test starts would be compared with transformers: tests of that ask for it.
os.environ["TAILORA_SELF_CHECK"] = "never"

settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, so that no test reads or leaves anything in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TAILORA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped without it."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder of real data, `shared` beside the checkout, is not here")
    return folder
