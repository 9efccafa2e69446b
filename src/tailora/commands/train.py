"""`tailora train`: an adapter, or another part of a model, trained on records with texts."""

from __future__ import annotations

from typing import Any

from tailora.training.settings import TrainSettings

__all__ = ["TrainSettings", "run"]


def run(settings: TrainSettings) -> dict[str, Any]:
    """Train and write a run directory; see `training.run.run`.

    Returns:
        What the run directory's run.json holds, and its path as `run`.

    Raises:
        UserError: the data, the model or the settings cannot be trained with.
        KeyboardInterrupt: on Ctrl-C, once the run directory is complete.
    """
    from tailora.training.run import run as train  # loads PyTorch, which help does not need

    return train(settings)
