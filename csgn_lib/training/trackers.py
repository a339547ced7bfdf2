"""Experiment trackers: metrics are also sent to TensorBoard, Weights & Biases, MLflow or Trackio, through accelerate.

``metrics.jsonl`` remains the record. A tracker writes below the run's folder and does not use the network, unless its
own environment variables (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``, ``TRACKIO_SPACE_ID``) configure it to.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from accelerate import Accelerator

from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run

FOLDER = "tracker"  # of a run


def check_tracker(experiment: Experiment) -> None:
    """Raise InputError if the tracker's package is not installed."""
    if experiment.tracker and find_spec(experiment.tracker) is None:
        raise InputError(
            f"tracker={experiment.tracker} needs a package that is not installed: pip install {experiment.tracker} "
            '(or pip install -e ".[trackers]" for all of them)'
        )


def start_tracker(experiment: Experiment, run: Run, accelerator: Accelerator) -> None:
    """Start the experiment's tracker, if it names one, with all parameters as its configuration."""
    if not experiment.tracker:
        return
    folder = run.path(FOLDER)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    name, options = run.dir.name, {}
    if experiment.tracker == "wandb":
        options = {"name": name, "dir": str(folder), "mode": os.environ.get("WANDB_MODE", "offline")}
    elif experiment.tracker == "mlflow":
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder.resolve()}/mlflow.db")
        options = {"run_name": name}
    elif experiment.tracker == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(folder.resolve()))
        options = {"name": name}
    config = {key: value if isinstance(value, int | float | str) else str(value) for key, value in experiment}
    accelerator.init_trackers("csgn", config, {experiment.tracker: options})


def track_record(record: dict[str, Any], accelerator: Accelerator) -> None:
    """Report one record of metrics.jsonl, its names prefixed with the stage; the step is the epoch."""
    values = {
        f"stage{record['stage']}/{name}": value for name, value in record.items() if name not in ("stage", "epochs")
    }
    accelerator.log(values, step=record["epoch"])
