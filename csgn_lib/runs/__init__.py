"""Runs: notebooks executed headless, their folders and states, sweeps over them, and the demo. Never imports torch.

`execute` one notebook · `sweep` a grid of parameters (`read_grid`: from a file) on `executors` · `load_sweep_records`:
a sweep's scores and statistics · `open_run` by path or name · `table` of all runs · `state` of one, `stop` it · the
`current` run of a notebook · its `answer`, `keep_answer`, `collect` · `demo`: ``make demo`` · `explain` a figure.
"""

from csgn_lib.runs import executors
from csgn_lib.runs.answers import answer, collect, keep_answer
from csgn_lib.runs.demo import PLAN, Outcome, Step, demo
from csgn_lib.runs.execution import execute
from csgn_lib.runs.explain import Explanation, explain, origin
from csgn_lib.runs.folders import (
    current,
    experiment_folder,
    flat,
    key,
    locate,
    open_run,
    recorded,
    runs_folder,
    state,
    stop,
    table,
)
from csgn_lib.runs.grids import Grid, read_grid
from csgn_lib.runs.machine import environment
from csgn_lib.runs.notebooks import declared, find, fitted, from_text
from csgn_lib.runs.sweep_files import collect_records, load_sweep_records, records_folder, write_sweep_records
from csgn_lib.runs.sweep_records import SweepRecords
from csgn_lib.runs.sweeps import planned, sweep
from csgn_lib.runs.words import clock, listing
