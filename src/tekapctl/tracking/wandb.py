"""Weights & Biases: its server, or files for `wandb sync` if WANDB_MODE is offline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tekapctl.errors import UsageError, require
from tekapctl.tracking.tracker import PATIENCE, TRACKERS, Metrics, Tracker, grouped

_SECONDS = 0.8 * PATIENCE
"""Timeout of W&B's start and end; shorter than a run's patience, so that its error is logged."""


@TRACKERS.register("wandb")
class WandB(Tracker):
    """A run with the same id in the project `tekapctl`; W&B's environment variables apply (WANDB_MODE, ...)."""

    @classmethod
    def check(cls) -> None:
        """Needs W&B, and a login unless it is offline."""
        wandb = require("wandb", "wandb")
        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        if settings.mode in ("online", "shared") and not wandb.login(prompt=False, verify=False):
            raise UsageError(
                "You are not logged in to Weights & Biases.", "Log in with `wandb login`, or set WANDB_MODE=offline."
            )

    def start(self, run: str, folder: Path, spec: dict[str, Any], epochs: int) -> int:
        """Start a W&B run, or resume it after its last step."""
        import wandb

        self._run = wandb.init(
            project=wandb.setup().settings.project or "tekapctl",
            id=run,
            name=run,
            config=spec,
            dir=str(folder),
            resume="allow",
            # Do not capture the console, and do not let an unreachable server delay the program's exit.
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_SECONDS,
                finish_timeout=_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        # Offline, W&B cannot know earlier steps, so each part's files hold the whole run.
        return min(max(0, self._run.step - 1), epochs) if self._run.resumed else 0

    def log(self, metrics: Metrics, epoch: int) -> None:
        self._run.log(grouped(metrics), step=epoch, commit=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._run.finish(exit_code=0 if summary["status"] == "finished" else 1)
