"""Files on disk: input errors, atomic writes, JSON, digests, and a run's folder; processes and cores.

This module imports no other package of the library. Writes are atomic: a temporary file in the target's folder is moved
to the target with ``os.replace``, so that a reader sees the old file or the new one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil
import yaml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# fields of a metrics.jsonl record that are not loss terms
BOOKS = frozenset({"stage", "epoch", "epochs", "rate", "seconds", "images_per_second", "waiting", "memory_mib"})
BACK = "bring the file back, or remove the folder"  # where no other file has this information
VOCABULARY = "vocabulary.yaml"  # the copy, in a run's folder, of the file that vocabulary_file names
TRAINING = ("metrics.jsonl", "text.safetensors", "checkpoint", "model.safetensors")  # what a training leaves
STATES = ("queued", "running", "done", "failed", "died", "timed_out", "interrupted")


class InputError(ValueError):
    """Invalid user input. The message names the file or value, and a remedy."""


class DiskError(InputError, OSError):
    """A file cannot be written. The message names the file, and a remedy."""


def did_you_mean(name: object, names: Iterable[str], otherwise: str = "") -> str:
    """The cure for an unknown name: ``did you mean 'near'?``; ``otherwise``, such as a list, if none is near."""
    known, name = list(names), str(name)
    close = difflib.get_close_matches(name, known, n=1) or [one for one in known if name and one.startswith(name)]
    return f"did you mean {close[0]!r}?" if close else otherwise


def nearest(name: object, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and all of them."""
    cure = did_you_mean(name, known := list(names))
    return (f" ({cure})" if cure else "") + f"; one of {', '.join(known)}"


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path in ``target``'s folder; move it to ``target`` if the block succeeds.

    Parent folders are created. On an exception the temporary file is removed and ``target`` is unchanged. After a
    power failure either the old or the new content is complete.
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
        temporary.chmod(0o666 & ~umask)  # mkstemp creates files that only their owner can read
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        move(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def clear_killed(target: str | Path) -> None:
    """Remove temporary files of ``atomic_path(target)`` from killed processes; call it only from the sole writer.

    Temporary files are recognized by the target's stem: those of ``new-1.txt`` are removed with those of ``new.txt``.
    """
    target = Path(target)
    for killed in target.parent.glob(f".{target.stem}-*{target.suffix}"):
        with suppress(OSError):
            killed.unlink()


def move(source: Path, target: Path) -> None:
    """Rename ``source`` over ``target``, and flush the folder so that the rename survives a power failure."""
    os.replace(source, target)
    with suppress(OSError):  # some systems cannot open folders
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def locked(file: Path) -> Iterator[bool]:
    """Hold the lock of a file, after waiting for it; yields False where locks are not available.

    The lock of a process that is killed or fails is released, and the next process has it.
    """
    with ExitStack() as held:
        alone = False
        with suppress(OSError):  # no write permission, which the work then reports
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = held.enter_context(file.open("ab"))
            if alone := bool(lock(opened, wait=True)):
                held.callback(fcntl.flock, opened, fcntl.LOCK_UN)  # a child forked meanwhile may keep the file open
        yield alone


def lock(file: IO[Any], wait: bool) -> bool | None:
    """Lock an open file for this process: whether it did, or None where the system or file system has no locks.

    Without ``wait``, False if another process holds the lock.
    """
    try:
        if fcntl is None:
            return None
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


@contextmanager
def writing(target: str | Path) -> Iterator[None]:
    """Convert an OSError of the block to a DiskError that names ``target``."""
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
    """Read a JSON file. Raises InputError that names the file and the remedy if it is missing or damaged."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, an integer of too many digits
        raise InputError(f"{path} is not valid JSON ({error}); {cure}") from None


def read_record(path: str | Path, cure: str = "remove it and run again") -> dict[str, Any]:
    """Read a JSON object. Raises InputError as `read_json`, and for a list, a number, a text or null."""
    record = read_json(path, cure)
    if not isinstance(record, dict):
        raise InputError(f"{path} holds {str(record)[:40]!r} in place of a JSON object; {cure}")
    return record


class _Yaml(yaml.SafeLoader):
    """A YAML loader in which 1e-3 is a number and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file that a person wrote. Raises InputError if it is missing or damaged, or a key stands twice."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Yaml)  # noqa: S506, a SafeLoader
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); name a YAML file") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:  # ValueError: no UTF-8; TypeError: a list as a key
        raise InputError(f"{path} is not valid YAML in UTF-8: {' '.join(str(error).split())}") from None


def sha256(file: Path | None) -> str | None:
    """SHA-256 of a file's content, 64 hexadecimal digits; None for no file."""
    if file is None:
        return None
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def cached_sha256(file: Path) -> str:
    """``sha256``, read again only when the file's size or modification time has changed."""
    state = file.stat()
    return _sha256_of(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1024)
def _sha256_of(file: Path, time_ns: int, size: int) -> str:
    return str(sha256(file))


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    import joblib  # only here: it takes a tenth of a second

    return joblib.cpu_count()


def process_start(pid: object) -> float | None:
    """When a process of this machine started, in seconds after boot; None if there is none, or it has ended.

    Together with the pid it identifies a process, since pids are reused and the wall clock may be changed.
    """
    try:
        process = psutil.Process(pid)  # type: ignore[arg-type]  # of a file that may be damaged
        if process.status() == psutil.STATUS_ZOMBIE:  # a zombie: killed, and not yet waited for by its parent
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except (psutil.Error, TypeError, ValueError, OverflowError):
        return None


def stop_on_sigterm() -> None:
    """Make SIGTERM raise KeyboardInterrupt, like Ctrl-C. Has no effect outside the main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise_interrupt)


def stops_on_sigterm() -> bool:
    """Whether SIGTERM stops this process like Ctrl-C; recorded in a run's status at its start."""
    return signal.getsignal(signal.SIGTERM) is _raise_interrupt


def _raise_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@dataclass(frozen=True)
class Run:
    """A run's folder, the only input of later steps.

    ``config.json benchmark.json towers.json status.json environment.json metrics.jsonl results.json per_query.csv
    embeddings.safetensors checkpoint/ plugins/ vocabulary.yaml figures/ executed.ipynb log.txt model.safetensors``
    """

    dir: Path

    def path(self, *parts: str) -> Path:
        """The path of a file of this run, which may not exist."""
        return Path(self.dir, *parts)

    @property
    def config(self) -> dict[str, Any]:
        """The experiment's parameters, as written at the run's start. Raises InputError if there is no run."""
        if not self.path("config.json").exists():
            raise InputError(f"{self.path('config.json')} does not exist; give the folder of a training run")
        config = read_record(self.path("config.json"), BACK)
        if isinstance(named := config.get("plugin"), list):  # the copies in this folder, which may have been moved
            copies = {name: self.path("plugins", str(name)) for name in named}
            config["plugin"] = [str(copy) if copy.exists() else name for name, copy in copies.items()]
        if config.get("vocabulary_file") and self.path(VOCABULARY).exists():
            config["vocabulary_file"] = str(self.path(VOCABULARY))
        return config

    @property
    def trained(self) -> bool:
        """Whether a training has begun in the folder: one of the files that only training writes is there."""
        return any(self.path(name).exists() for name in TRAINING)

    @property
    def results(self) -> dict[str, Any]:
        """Scores by descriptor and protocol, written by the evaluation."""
        return read_record(self.path("results.json"))

    @property
    def status(self) -> dict[str, Any]:
        """The last status written: ``state`` is one of STATES."""
        return read_record(self.path("status.json"))

    def set_status(self, state: str, **fields: Any) -> None:
        """Replace status.json: the state, the process (this one, unless ``pid`` names another) and the time.

        Times are in seconds since 1970, ``process_start`` in seconds after boot (see `process_start`).
        """
        if state not in STATES:
            raise InputError(f"unknown state {state!r}; one of {', '.join(STATES)}")
        pid = fields.get("pid", os.getpid())
        process = {"pid": pid, "process_start": process_start(pid), "host": socket.gethostname()}
        write_json(self.path("status.json"), {"state": state} | process | {"time": time.time()} | fields)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append the record of one epoch to metrics.jsonl as one line and flush it to the disk. Raises DiskError."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with writing(self.path("metrics.jsonl")):
            self.path().mkdir(parents=True, exist_ok=True)
            with self.path("metrics.jsonl").open("a+b") as file:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)  # remove a line that a crash cut off
                file.write(line)
                file.flush()
                os.fsync(file.fileno())  # a checkpoint must not be newer than the record

    def metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl, oldest first. An incomplete last line after a crash is ignored.

        Raises InputError that names the file if it is damaged.
        """
        path = self.path("metrics.jsonl")
        if not path.exists():
            return []
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            records = [json.loads(line) for line in lines[:-1]]  # text after the last newline is incomplete
            if not all(isinstance(record, dict) for record in records):
                raise ValueError("a line is no JSON object")
            return records
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); remove the line that is no JSON, or the run") from error

    def log(self, line: str) -> None:
        """Append a line to log.txt. Raises DiskError."""
        with writing(self.path("log.txt")):
            self.path().mkdir(parents=True, exist_ok=True)
            with self.path("log.txt").open("a", encoding="utf-8") as file:
                file.write(line.rstrip() + "\n")


def home() -> Path:
    """The workbench's folder, which holds data/, notebooks/ and reports/.

    ``CSGN_HOME`` if set; else the checkout that contains this library; else the working folder.
    """
    if os.environ.get("CSGN_HOME"):
        return Path(os.environ["CSGN_HOME"])
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def locate(name: str | Path) -> Path:
    """The path that ``name`` means: of a run (``csgn status`` prints its bare name), of a sweep, or of any file.

    A relative path is looked for in the working folder, then in the workbench's, then among the runs of
    ``reports/runs``, so that ``reports/runs/NAME`` and ``NAME`` work in every notebook and command. If no
    such file or folder exists, ``reports/runs/NAME`` is taken from the workbench's folder, and any other path from the
    working folder.
    """
    path = Path(name)
    if path.is_absolute():
        return path
    for candidate in (path, home() / path, home() / "reports" / "runs" / path):
        if candidate.exists() and path != Path("."):
            return candidate
    return home() / path if path.parts[:2] == ("reports", "runs") else path


def cache() -> Path:
    """The folder of cached files, such as decoded pixels; ``make clean`` removes it."""
    return home() / "reports" / "cache"
