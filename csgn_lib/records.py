"""What is written to disk: errors that name the cure, atomic files, and a run's folder.

The leftmost room. Nothing here knows about tensors, figures or notebooks, so every other room can
write through it. A file appears whole or not at all: it is written beside its target and moved
into place with ``os.replace``.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# what a record of metrics.jsonl may say besides loss terms
BOOKS = frozenset({"stage", "epoch", "epochs", "rate", "seconds", "images_per_second", "waiting", "memory_mib"})
BACK = "bring the file back, or remove the folder"  # the cure where it alone says what a run was trained with
STATES = ("queued", "running", "done", "failed", "died", "timed_out", "interrupted")


class InputError(ValueError):
    """Something the user gave cannot be used. The message names the file or value, and the cure."""


class DiskError(InputError, OSError):
    """A file cannot be written. The message names it, and the cure."""


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path in ``target``'s folder; move it to ``target`` if the block succeeds.

    Parent folders are made. On an exception the temporary file is removed and ``target`` is left
    exactly as it was. After a power cut there is the old file or the new one, whole.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; a report is to be read
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        move(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def clear_killed(target: str | Path) -> None:
    """Remove what ``atomic_path`` of ``target`` could not, in processes that were killed; for the only one that writes.

    It begins as ``target`` does: what was to be ``new-1.txt`` goes with ``new.txt`` too.
    """
    target = Path(target)
    for killed in target.parent.glob(f".{target.stem}-*{target.suffix}"):
        with suppress(OSError):
            killed.unlink()


def move(source: Path, target: Path) -> None:
    """Rename in place of what was there, and for good: a folder, too, reaches the disk only when it is asked to."""
    os.replace(source, target)
    with suppress(OSError):  # not every system lets a folder be opened
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def writing(target: str | Path) -> Iterator[None]:
    """Inside, what the disk refuses becomes a DiskError that names ``target``."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(
            f"{target} cannot be written ({error.strerror or error}); make room, or choose another place"
        ) from error


def write_text(target: str | Path, text: str) -> None:
    """Write ``text`` to ``target`` atomically, as UTF-8. Raises DiskError."""
    with writing(target), atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, cure: str = "remove it and run again") -> Any:
    """Read a JSON file. Raises InputError that names the file, and the cure, if it is missing or damaged."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); {cure}") from None


@dataclass(frozen=True)
class Run:
    """A run's folder: everything that later steps read, and nothing else.

    ``config.json benchmark.json towers.json status.json environment.json metrics.jsonl results.json per_query.csv
    embeddings.safetensors checkpoint/ figures/ executed.ipynb log.txt model.safetensors``
    """

    dir: Path

    def path(self, *parts: str) -> Path:
        """The path of a file of this run; nothing is created."""
        return Path(self.dir, *parts)

    @property
    def config(self) -> dict[str, Any]:
        """The experiment's parameters, as written when the run began. Raises InputError where there is no run."""
        if not self.path("config.json").exists():
            raise InputError(f"{self.path('config.json')} does not exist; give the folder of a training run")
        return read_json(self.path("config.json"), BACK)

    @property
    def results(self) -> dict[str, Any]:
        """Scores per descriptor and protocol; written once the run has been evaluated."""
        return read_json(self.path("results.json"))

    @property
    def status(self) -> dict[str, Any]:
        """The last status written: ``state`` is one of STATES."""
        return read_json(self.path("status.json"))

    def set_status(self, state: str, **fields: Any) -> None:
        """Replace status.json: the state, this process and the time (seconds since 1970)."""
        if state not in STATES:
            raise InputError(f"unknown state {state!r}; one of {', '.join(STATES)}")
        record = {"state": state, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
        write_json(self.path("status.json"), record | fields)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one record (one epoch) to metrics.jsonl as one line, safe from a power cut. Raises DiskError."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with writing(self.path("metrics.jsonl")):
            self.path().mkdir(parents=True, exist_ok=True)
            with self.path("metrics.jsonl").open("a+b") as file:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)  # else a line that a crash cut off would spoil this one
                file.write(line)
                file.flush()
                os.fsync(file.fileno())  # the next checkpoint says that this epoch is done

    def metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl, oldest first; a last line cut off by a crash is left out."""
        path = self.path("metrics.jsonl")
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        try:
            return [json.loads(line) for line in lines[:-1]]  # what follows the last newline is unfinished
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged ({error}); remove the line that is no JSON, or the run") from error

    def log(self, line: str) -> None:
        """Append a line to log.txt. Raises DiskError."""
        with writing(self.path("log.txt")):
            self.path().mkdir(parents=True, exist_ok=True)
            with self.path("log.txt").open("a", encoding="utf-8") as file:
                file.write(line.rstrip() + "\n")


def home() -> Path:
    """The workbench's folder, which holds data/, notebooks/ and reports/.

    ``CSGN_HOME`` if set; else the checkout that this library is installed from; else here.
    """
    if os.environ.get("CSGN_HOME"):
        return Path(os.environ["CSGN_HOME"])
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def cache() -> Path:
    """The folder of what can be made again, such as decoded pixels; ``make clean`` removes it."""
    return home() / "reports" / "cache"
