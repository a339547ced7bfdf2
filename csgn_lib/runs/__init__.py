"""Runs: notebooks executed headless, their folders and states, sweeps over them, and the demo.

`execute` one notebook · `sweep` a grid of parameters (`read_grid`: of a file) over `executors` · `table` all runs ·
`state` of one · `current` from inside a notebook · the `answer` that it gave, `keep_answer` under its question,
`collect` in a folder · `demo` the plan behind ``make demo`` · `swept`, a sweep's committed records · `explain` a
figure, back to its runs.
Never imports torch.
"""

from csgn_lib.runs import executors
from csgn_lib.runs.answers import answer, collect, keep_answer
from csgn_lib.runs.execution import execute
from csgn_lib.runs.explain import Explanation, explain, origin
from csgn_lib.runs.folders import current, flat, key, locate, open_run, recorded, runs_folder, state, stop, table
from csgn_lib.runs.grids import Grid, read_grid
from csgn_lib.runs.machine import environment
from csgn_lib.runs.notebooks import declared, find, fitted, from_text
from csgn_lib.runs.plan import PLAN, Outcome, Step, demo
from csgn_lib.runs.sweeps import planned, sweep
from csgn_lib.runs.swept import Swept, swept
from csgn_lib.runs.words import clock, ended, label, listing

__all__ = [
    "PLAN",
    "Explanation",
    "Grid",
    "Outcome",
    "Step",
    "Swept",
    "answer",
    "clock",
    "collect",
    "current",
    "declared",
    "demo",
    "ended",
    "environment",
    "execute",
    "executors",
    "explain",
    "find",
    "fitted",
    "flat",
    "from_text",
    "keep_answer",
    "key",
    "label",
    "listing",
    "locate",
    "open_run",
    "origin",
    "planned",
    "read_grid",
    "recorded",
    "runs_folder",
    "state",
    "stop",
    "sweep",
    "swept",
    "table",
]
