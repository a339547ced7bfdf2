"""`load_sweep_records`: read a sweep's records from the run folders of a grid, or from the files that it wrote."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from csgn_lib.records import InputError, Run, atomic_path
from csgn_lib.runs.explain import RECORD, origin
from csgn_lib.runs.folders import locate
from csgn_lib.runs.grids import read_grid
from csgn_lib.runs.sweep_records import PLAIN, SweepRecords
from csgn_lib.runs.sweeps import digest, frame_of, planned_cells
from csgn_lib.statistics.intervals import METRICS
from csgn_lib.statistics.paired import cost, queries

QUERIES, COSTS = "per-query.csv.gz", "costs-records.csv"


def load_sweep_records(
    source: str | Path,
    baselines: Sequence[str] = (),
    descriptors: Sequence[str] = (PLAIN,),
    protocols: Sequence[str] = (),
    metric: str = "mean_ap",
) -> SweepRecords:
    """The records of a sweep.

    Args:
        source: a grid's YAML file, whose runs are all done; or a folder of records (`write_sweep_records`). A relative
            path is looked for in the working folder and in the workbench's; a sweep's folder is found by its name.
        baselines: candidates; the first one that is recorded is subtracted, else the first label.
        descriptors: of plain, clothing removed, person only.
        protocols: names of protocols; empty: the benchmark's first one, and *general* if it is recorded.
        metric: mean_ap, rank1 or minp.

    Raises:
        InputError: missing or damaged records, runs that are not done (with the command that runs them), or a
            descriptor, protocol or metric that is not recorded (with the recorded ones).
    """
    path = locate(source)
    raw = _of_grid(path) if path.suffix in (".yaml", ".yml") else _of_folder(path)
    recorded = _recorded(raw.runs)
    if not recorded:
        raise InputError(f"{raw.path} contains no scores to compare; run the sweep again")
    kinds, names, metrics = (list(dict.fromkeys(part)) for part in zip(*recorded, strict=True))
    protocols = protocols or list(dict.fromkeys([names[0], *({"general"} & set(names))]))
    _refuse_unknown(raw.path, "protocol", protocols, names)
    _refuse_unknown(raw.path, "metric", [metric], metrics)
    descriptors = [name for name in descriptors if name in kinds] or list(descriptors)
    _refuse_unknown(raw.path, "descriptor", descriptors, kinds)
    chosen = replace(raw, descriptors=tuple(descriptors), protocols=tuple(protocols), metric=metric)
    labels = list(dict.fromkeys(chosen.values["label"]))
    return replace(chosen, baseline=next((name for name in baselines if name in labels), labels[0]))


def write_sweep_records(records: SweepRecords, folder: str | Path) -> list[Path]:
    """Write the records as CSV files that `load_sweep_records` reads; an empty one is not written.

    Scores per query are written for the benchmark's first protocol, *general* and *same_clothes*.
    """
    kept = records.queries
    if not kept.empty:
        first = records.protocols[:1] or tuple(dict.fromkeys(kept["protocol"]))[:1]
        kept = kept[kept["protocol"].isin([*first, "general", "same_clothes"])]
    files = {RECORD: records.runs, QUERIES: kept, COSTS: records.cost_records}
    written = []
    for name, frame in files.items():
        if not frame.empty:
            path = Path(folder) / name
            content = frame.to_csv(index=False, float_format="%.6g").encode()
            with atomic_path(path) as temporary:
                temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
            written.append(path)
    return written


def collect_records(frame: pd.DataFrame, grid: str | Path) -> SweepRecords:
    """The records of the runs that `sweep` returned; runs without a row name have the row ``all``.

    Raises InputError if a run is not done, naming the command, or cannot be read.
    """
    if (wrong := frame["state"] != "done").any():
        raise InputError(f"{int(wrong.sum())} of {len(frame)} runs of {grid} are not done; run csgn sweep {grid} first")
    folders = [Run(Path(path)) for path in frame["run"]]
    table = frame.assign(row=frame["row"] if "row" in frame else "all")
    configs = [run.config for run in folders]
    for draw in ("seed", "world"):
        if draw not in table:
            table[draw] = [config.get(draw) or 0 for config in configs]
    labels = table[["row", "seed", "world"]].to_dict("records")
    pairs = list(zip(folders, labels, strict=True))
    origins = pd.DataFrame([origin(run) for run in folders], index=table.index)
    runs = origins.join(table.drop(columns=["run", *origins.columns.intersection(table.columns)]))
    scored = [(run, label) for run, label in pairs if run.path("per_query.csv").exists()]
    per_query = pd.concat([queries(run, **label) for run, label in scored]) if scored else pd.DataFrame()
    costs = pd.DataFrame([label | cost(run) for run, label in pairs])
    return SweepRecords(Path(grid), runs, per_query, costs)


def records_folder(grid: str | Path) -> Path:
    """Where `csgn sweep` writes the records of a grid: ``reports/runs/sweep-<digest>``."""
    return locate(f"reports/runs/sweep-{digest(planned_cells(read_grid(locate(grid))))}")


def _of_grid(path: Path) -> SweepRecords:
    return collect_records(frame_of(planned_cells(read_grid(path)), {}), path)


def _of_folder(folder: Path) -> SweepRecords:
    paths = [folder / name for name in (RECORD, QUERIES, COSTS)]
    frames = [_read(path) if path.is_file() or path.name == RECORD else pd.DataFrame() for path in paths]
    return SweepRecords(folder, *frames, sources=tuple(path for path in paths if path.is_file()))


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; give a sweep's YAML file, or the folder of its records (csgn sweep, or "
            "40_ablation_sweep, writes them)"
        ) from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); run the sweep again") from None


def _recorded(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(descriptor, protocol, metric) of the columns that hold scores."""
    parts = [str(column).split(".") for column in runs]
    return [(p[0], p[2], p[3]) for p in parts if len(p) == 4 and p[1] == "protocols" and p[3] in METRICS]


def _refuse_unknown(name: Path, kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [one for one in given if one not in known]:
        raise InputError(f"{name} has no {kind} {', '.join(map(repr, unknown))}; there are: {', '.join(known)}")
