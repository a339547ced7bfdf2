"""`read_grid`: read a sweep's YAML file as a list of cells, each validated before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csgn_lib.records import InputError, did_you_mean, read_yaml
from csgn_lib.runs import notebooks

KEYS = ("notebook", "every", "rows", "grid", "seeds", "worlds", "gpus_per_cell")


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep in order: parameters and row name of each."""

    path: Path
    notebook: Path
    cells: list[dict[str, Any]]
    names: list[str]
    gpus_per_cell: int = 0


def read_grid(path: str | Path) -> Grid:
    """Read the YAML file of a sweep: every row with every seed.

    ::

        notebook: 12_train                # the default
        every: {stage2_epochs: 5}         # parameters of each cell
        rows:                             # named rows, each with its own parameters
          identity + triplet: {hsf: none, vss: none}
          CSGN: {}
        grid: {beta: [0.25, 0.5]}         # each row with every combination of these values
        seeds: [0, 1, 2]
        worlds: [0, 1, 2]                 # one for each seed; absent: the notebook's own
        gpus_per_cell: 1                  # absent: no GPUs are reserved

    Every parameter of the experiment is allowed; those that the notebook does not declare are passed in its ``more``.

    Raises:
        InputError: an unknown key or parameter (with the nearest name), a value of the wrong type, a
            parameter that is set in two places, a grid without cells, or the same cell twice.
    """
    path = Path(path)
    spec = _loaded(path)
    for key in spec:
        if key not in KEYS:
            cure = did_you_mean(key, KEYS, f"it may have: {', '.join(KEYS)}")
            raise InputError(f"{path} has an unknown key {key!r}; {cure}")
    every = _mapping(path, "every", spec.get("every") or {})
    rows = _mapping(path, "rows", spec.get("rows", {"": {}}))
    values = combinations(_mapping(path, "grid", spec["grid"])) if "grid" in spec else [{}]
    draws = _draws(path, spec)
    gpus = spec.get("gpus_per_cell", 0)
    if not isinstance(gpus, int) or isinstance(gpus, bool) or gpus < 0:
        raise InputError(f"{path}: gpus_per_cell = {gpus!r}: give a whole number, 0 or more")
    if not rows:
        raise InputError(f"{path}: rows is empty, so the grid has no cell; add a row, or remove rows")
    notebook = notebooks.find(spec.get("notebook", "12_train"))
    grid, known = Grid(path, notebook, [], [], gpus), notebooks.declared(notebook)
    for name, own in rows.items():
        own = _mapping(path, f"row {name!r}", own or {})
        _refuse_twice(path, name, {**every, **own}, {**values[0], **draws[0]})
        for value, draw in itertools.product(values, draws):
            grid.names.append(_name(str(name), value) or notebook.stem)
            grid.cells.append(_for_notebook({**every, **own, **value, **draw}, known))
    check(grid)
    return grid


def check(grid: Grid) -> list[dict[str, Any]]:
    """All parameters of every cell. Raises InputError naming the file and the row of the first invalid cell."""
    full: list[dict[str, Any]] = []
    for name, cell in zip(grid.names, grid.cells, strict=True):
        try:
            full.append(notebooks.checked(grid.notebook, cell))
        except InputError as error:
            raise InputError(f"{grid.path}, row {name!r}: {error}") from None
        if full[-1] in full[:-1]:
            other = grid.names[full.index(full[-1])]
            raise InputError(f"{grid.path}: rows {other!r} and {name!r} are the same cell; remove one of them")
    return full


def combinations(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the grid's values. Raises InputError naming a parameter without any."""
    lists = {name: value if isinstance(value, list | tuple) else [value] for name, value in grid.items()}
    for name, values in lists.items():
        if not values:
            raise InputError(f"the grid has no value for {name!r}, so it has no cell; give at least one")
    if not lists:
        raise InputError('the grid is empty; give parameters with their values, such as {"seed": [0, 1, 2]}')
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def _loaded(path: Path) -> dict[str, Any]:
    spec = read_yaml(path)
    if not spec:
        raise InputError(f"{path} is empty, so the grid has no cell; give rows, grid or seeds")
    return _mapping(path, "the file", spec)


def _mapping(path: Path, what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {what} is {value!r}; write names with their values, such as {{beta: 0.5}}")
    return value


def _draws(path: Path, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seed, and world if given, of each repetition; one empty entry if the file has no seeds."""
    for key in ("seeds", "worlds"):
        if key in spec and (not isinstance(spec[key], list) or not spec[key]):
            raise InputError(f"{path}: {key} = {spec[key]!r}; give a list of at least one number, or leave it out")
    seeds, worlds = spec.get("seeds"), spec.get("worlds")
    if worlds is not None and len(worlds) != len(seeds or []):
        raise InputError(f"{path}: {len(worlds)} worlds for {len(seeds or [])} seeds: give one for each seed, or none")
    if seeds is None:
        return [{}]
    draws = [{"seed": seed} for seed in seeds]
    return [draw | {"world": world} for draw, world in zip(draws, worlds, strict=True)] if worlds else draws


def _refuse_twice(path: Path, row: str, own: Mapping[str, Any], varied: Mapping[str, Any]) -> None:
    for name in own:
        if name in varied:
            where = f"row {row!r}" if row else "every"
            raise InputError(f"{path}: {name!r} is set by {where} and varied by grid, seeds or worlds; keep one")


def _for_notebook(cell: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The cell, with parameters that the notebook does not declare, and nulls, moved into ``more``."""
    if "more" not in known:
        return cell
    more = {name: value for name, value in cell.items() if name not in known or (value is None and name != "more")}
    rest = {name: value for name, value in cell.items() if name not in more}
    return rest | ({"more": {**(cell.get("more") or {}), **more}} if more else {})


def _name(row: str, value: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, [row, *(f"{name}={item}" for name, item in value.items())]))
