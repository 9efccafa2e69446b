"""What all tests share: no hub, a cache of their own, one thread, repeatable property tests, the shared folder."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Set before a test module imports PyTorch, transformers or matplotlib.
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "MPLBACKEND": "Agg"}
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Every engine that a test starts would be compared with transformers: tests of that ask for it.
os.environ["TAILORA_SELF_CHECK"] = "never"

# Files that run for longest, which are started first: a long file at the end would leave the other processes idle.
LONGEST = [
    *("distributed", "resume", "train_run", "snippets", "prompt_contract", "quickstart", "compare", "demo"),
    *("learning_curve", "engine", "generate", "evaluate", "api", "file_fuzz"),
]

settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest files to the front; the order within a file stays."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths of cache folders, numbered here: `mktemp` lists all folders of the session for each new one."""
    parent = tmp_path_factory.mktemp("caches")
    return map(parent.joinpath, map(str, itertools.count()))


@pytest.fixture(autouse=True)
def cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, so that no test reads or leaves anything in the user's."""
    folder = next(caches)
    folder.mkdir()
    monkeypatch.setenv("TAILORA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped without it."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder of real data, `shared` beside the checkout, is not here")
    return folder
