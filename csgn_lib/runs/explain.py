"""`explain`: trace a figure to its numbers, its command, the runs behind it, their code and their data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from csgn_lib.records import InputError, Run, home, read_json, read_record, sha256
from csgn_lib.runs.machine import library_digest

SUFFIXES = (".pdf", ".png", ".csv", ".json")  # of a saved figure
RECORD = "runs-records.csv"  # of a sweep: its runs, one a line
ORIGIN = ("run", "key", "config", "library", "commit", "dirty", "data")
_SHOWN = 12  # hexadecimal digits of a digest


@dataclass(frozen=True)
class Link:
    """One link of the chain. ``state``: `found`, `missing` (not recorded, or not here), `broken` (changed)."""

    name: str
    detail: str
    state: str = "found"


@dataclass(frozen=True)
class Explanation:
    """The provenance of a figure, link by link; ``str()`` is the output of ``csgn explain``."""

    figure: Path
    links: tuple[Link, ...]

    @property
    def missing(self) -> list[Link]:
        """The links that are not recorded, or not on this machine."""
        return [link for link in self.links if link.state == "missing"]

    @property
    def broken(self) -> list[Link]:
        """The links that differ from what was recorded."""
        return [link for link in self.links if link.state == "broken"]

    def __str__(self) -> str:
        marks = {"found": "", "missing": "MISSING: ", "broken": "BROKEN: "}
        width = max(len(link.name) for link in self.links)
        lines = [f"{link.name.ljust(width)}  {marks[link.state]}{link.detail}" for link in self.links]
        links = f"{len(self.links)} link{'s' * (len(self.links) != 1)}"
        return "\n".join([*lines, f"{links}, {len(self.missing)} missing, {len(self.broken)} broken"])

    __repr__ = __str__


def explain(figure: str | Path) -> Explanation:
    """The chain from a saved figure back to its sources.

    Its numbers (CSV, and whether they have changed), the command, the run that drew it, the records that it read, and
    for every run: folder, key, digest of its parameters, library, git state, hash of the data. Missing information is
    reported as a link of state `missing`.

    Args:
        figure: a path, with or without a suffix; or a name or the end of a path (``first/differences``) in
            ``reports``.

    Raises:
        InputError: no figure or several have this name; its ``.json`` is missing, damaged, or no record of a figure.
    """
    base = _base(figure)
    record = _record(base)
    links = [*_itself(base, record), *_drawing(base, record), *_sources(record), *_runs(base, record)]
    runs = {link.detail for link in links if link.name == "run"}  # the run that drew the figure may be one of them
    once = dict.fromkeys(link for link in links if link.name != "drawn in" or link.detail not in runs)
    return Explanation(base, tuple(once))


def origin(run: Run) -> dict[str, Any]:
    """The identity of a run, for records without its folder; None for fields that are not recorded.

    ``run`` (the folder's bare name), ``key``, ``config`` (SHA-256 of config.json, 12 digits), ``library`` (digest),
    ``commit``, ``dirty`` (git's state), ``data`` (hash of the benchmark, of benchmark.json).

    Raises InputError for a damaged file.
    """
    status, where, data = (
        read_record(run.path(name)) if run.path(name).exists() else {}
        for name in ("status.json", "environment.json", "benchmark.json")
    )
    git = where.get("git") or {}
    config = run.path("config.json")
    return {
        "run": Path(run.dir).name, "key": status.get("key"),
        "config": sha256(config)[:_SHOWN] if config.exists() else None,
        "library": where.get("library"), "commit": git.get("commit"), "dirty": git.get("dirty"),
        "data": data.get("manifest"),
    }  # fmt: skip


def within(path: Path) -> str:
    """The path from the workbench's folder; the bare name outside of it, so that records hold no machine's paths."""
    resolved, base = path.resolve(), home().resolve()
    return resolved.relative_to(base).as_posix() if resolved.is_relative_to(base) else resolved.name


def _base(figure: str | Path) -> Path:
    path = Path(figure)
    path = path.with_suffix("") if path.suffix in SUFFIXES else path
    for base in (path, home() / path):
        if base.parent != Path(".") and any(Path(f"{base}{suffix}").is_file() for suffix in SUFFIXES):
            return base
    reports = home() / "reports"
    named = [path.with_suffix("") for path in sorted(reports.rglob("*.png"))]
    named = [base for base in named if base.parts[-len(path.parts) :] == path.parts]
    if len(named) == 1:
        return named[0]
    if not named:
        raise InputError(f"no figure is named {figure} below {reports}; give its path, without a suffix")
    listed = "; ".join(within(base) for base in named[:6]) + ("; ..." if len(named) > 6 else "")
    raise InputError(f"{len(named)} figures are named {figure}; give the path of one: {listed}")


def _record(base: Path) -> dict[str, Any]:
    path = Path(f"{base}.json")
    if not path.is_file():
        raise InputError(f"{path} does not exist, so the figure has no provenance; draw it again with figures.save")
    record = read_json(path)
    if not isinstance(record, dict) or not all(
        isinstance(record.get(name, kind()), kind) and all(isinstance(part, Mapping) for part in record.get(name, []))
        for name, kind in (("runs", list), ("sources", list))
    ):
        raise InputError(f"{path} is no record of a figure; draw the figure again with figures.save")
    return record


def _itself(base: Path, record: Mapping[str, Any]) -> Iterator[Link]:
    drawn = [suffix for suffix in (".pdf", ".png") if Path(f"{base}{suffix}").is_file()]
    yield Link("figure", f"{within(base)} ({', '.join(drawn)})") if drawn else _absent("figure", f"{base.name}.png")
    if record.get("caption"):
        yield Link("caption", str(record["caption"]))
    yield _file("numbers", Path(f"{base}.csv"), record.get("csv_sha256"))


def _drawing(base: Path, record: Mapping[str, Any]) -> Iterator[Link]:
    if record.get("command"):
        yield Link("command", str(record["command"]))
    else:
        yield _absent("command", "none was recorded: the figure was drawn live")
    name = record.get("made_in") or (base.parent.parent.name if base.parent.name == "figures" else "")
    own = base.parent.parent if base.parent.name == "figures" else home() / "reports" / "runs" / str(name)
    if name and own.name == name and (own / "status.json").is_file():
        yield Link("drawn in", _identity(origin(Run(own))))
    elif name:
        yield _absent("drawn in", f"{name}: the folder is not on this machine")
    else:
        yield _absent("drawn in", "the record names no run, so library, git state and data are unknown too")
    if library := record.get("library"):
        now = library_digest()
        yield Link("library", f"{library}" + ("" if library == now else f"; here it is {now} now"))


def _sources(record: Mapping[str, Any]) -> Iterator[Link]:
    for source in record.get("sources", []):
        yield _file("read", home() / str(source.get("path")), source.get("sha256"))


def _runs(base: Path, record: Mapping[str, Any]) -> Iterator[Link]:
    """The runs that the record names, else those of the sweep records that were read or are in its folder."""
    if record.get("runs"):
        yield from (_run(run) for run in record["runs"])
        return
    folders = [(home() / str(source.get("path"))).parent for source in record.get("sources", [])]
    records = [path for folder in dict.fromkeys([*folders, base.parent]) if (path := folder / RECORD).is_file()]
    for path in records:
        try:
            table = pd.read_csv(path, dtype={name: str for name in ORIGIN if name != "dirty"})  # a key may be 12345678
        except (ValueError, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}); run the sweep again") from None
        if "run" not in table:
            yield _absent("runs", f"{within(path)} lists {len(table)}, without their folders: older than that column")
            continue
        for row in table.astype(object).where(table.notna(), None).to_dict("records"):
            yield _run(row)
    if not records and base.parent.name == "figures":
        yield Link("runs", "none beside the one that drew it")
    elif not records:
        yield _absent("runs", "the record names none")


def _run(kept: Mapping[str, Any]) -> Link:
    """The record of a run, compared with its folder if that exists."""
    name = str(kept.get("run"))
    if not kept.get("run"):
        return _absent("run", "one without a name")
    folder = Run(home() / "reports" / "runs" / name)
    known = {part: kept[part] for part in ORIGIN if kept.get(part) is not None}
    if not folder.path("status.json").is_file():
        lacking = [part for part in ORIGIN if part not in known]
        detail = f"{_identity(known)}; its folder is not on this machine" + (
            f", nor its {', '.join(lacking)}" if lacking else ""
        )
        return Link("run", detail, "missing" if lacking else "found")
    here = origin(folder)
    changed = [part for part, value in known.items() if str(here[part]) != str(value)]
    if changed:
        return Link("run", f"{name}: another {', '.join(changed)} here than recorded ({_identity(known)})", "broken")
    return Link("run", _identity(here), "found" if all(here[part] is not None for part in ORIGIN) else "missing")


def _identity(known: Mapping[str, Any]) -> str:
    git = (
        str(known["commit"])[:_SHOWN] + (" with changes" if known.get("dirty") else "") if known.get("commit") else "?"
    )
    parts = {name: str(known.get(name) or "?")[:_SHOWN] for name in ("key", "config", "library", "data")}
    return f"{known.get('run')}: " + ", ".join(f"{name} {value}" for name, value in {**parts, "git": git}.items())


def _file(name: str, path: Path, recorded: object) -> Link:
    if not path.is_file():
        return _absent(name, f"{within(path)} is not here")
    now = sha256(path)
    if not recorded:
        return Link(name, f"{within(path)}, SHA-256 {now}; none was recorded to compare with", "missing")
    if now != recorded:
        return Link(name, f"{within(path)}, SHA-256 {now}, was {recorded} when the figure was drawn", "broken")
    return Link(name, f"{within(path)}, SHA-256 {now}, as recorded")


def _absent(name: str, detail: str) -> Link:
    return Link(name, detail, "missing")
