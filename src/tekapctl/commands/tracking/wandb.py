"""Weights & Biases: its server, or files for `wandb sync` where WANDB_MODE is offline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tekapctl.commands.tracking.tracker import PATIENCE, TRACKERS, Metrics, Tracker, in_groups
from tekapctl.errors import UsageError, require

_SECONDS = 0.8 * PATIENCE
"""What W&B may take to begin, and to end; a run waits a little longer, and so hears what was wrong."""


@TRACKERS.register("wandb")
class WandB(Tracker):
    """A run of the same id in the project `tekapctl`; the variables of W&B hold (WANDB_MODE, WANDB_PROJECT...)."""

    @classmethod
    def check(cls) -> None:
        """W&B must be installed, and know who the user is unless it is offline."""
        wandb = require("wandb", "wandb")
        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        if settings.mode in ("online", "shared") and not wandb.login(prompt=False, verify=False):
            raise UsageError(
                "Weights & Biases does not know who you are.", "Log in with `wandb login`, or set WANDB_MODE=offline."
            )

    def start(self, run: str, folder: Path, spec: dict[str, Any], epochs: int) -> int:
        """A run of W&B's; one that goes on goes on after its last step."""
        import wandb

        self._run = wandb.init(
            project=wandb.setup().settings.project or "tekapctl",
            id=run,
            name=run,
            config=spec,
            dir=str(folder),
            resume="allow",
            # What the run prints is none of W&B's business, and stdout is the program's. W&B would hold up the end of
            # the program for as long as its server does not answer.
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_SECONDS,
                finish_timeout=_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        # Offline there is no server to say what it has; each part's files hold the whole run then.
        return min(max(0, self._run.step - 1), epochs) if self._run.resumed else 0

    def log(self, metrics: Metrics, epoch: int) -> None:
        """A step for each epoch."""
        self._run.log(in_groups(metrics), step=epoch, commit=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Sends what is left."""
        self._run.finish(exit_code=0 if summary["status"] == "finished" else 1)
