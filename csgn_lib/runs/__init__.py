"""Runs: notebooks executed headless, their folders and states, sweeps over them, and the demo.

`execute` one notebook · `sweep` a grid of parameters · `table` all runs · `state` of one ·
`current` from inside a notebook · `keep_answer` under its question · `demo` the plan behind ``make demo``.
Never imports torch.
"""

from csgn_lib.runs.answers import keep_answer
from csgn_lib.runs.execution import execute
from csgn_lib.runs.folders import current, flat, recorded, runs_folder, state, table
from csgn_lib.runs.machine import environment
from csgn_lib.runs.notebooks import declared, find, fitted, from_text
from csgn_lib.runs.plan import PLAN, Outcome, Step, clock, demo
from csgn_lib.runs.sweeps import sweep

__all__ = [
    "PLAN",
    "Outcome",
    "Step",
    "clock",
    "current",
    "declared",
    "demo",
    "environment",
    "execute",
    "find",
    "fitted",
    "flat",
    "from_text",
    "keep_answer",
    "recorded",
    "runs_folder",
    "state",
    "sweep",
    "table",
]
