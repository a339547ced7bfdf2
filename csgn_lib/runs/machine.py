"""Provenance of a run: interpreter, packages, machine, and digests of the library's code. Never imports torch."""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import csgn_lib
from csgn_lib.records import cached_sha256, cores

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "accelerate", "numpy", "pandas", "papermill")
LIBRARY = Path(csgn_lib.__file__).parent
_CORE_NAMES = {name for package in csgn_lib.CORE for name in (package, f"{package}.py")}


def environment() -> dict[str, Any]:
    """The content of environment.json: python, platform, cpu, gpu, package versions, code digests and git state."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "gpu": _gpu(),
        "packages": {name: _version(name) for name in PACKAGES},
        "core": core_digest(),
        "library": library_digest(),
        "git": _git(),
    }


def library_digest() -> str:
    """Eight hexadecimal digits of all of csgn_lib: its code without docstrings and comments, and its weights."""
    return _digest(LIBRARY.rglob("*"))


def core_digest() -> str:
    """The same for the packages that determine a run's result, ``csgn_lib.CORE``."""
    return _digest(path for path in LIBRARY.rglob("*") if path.relative_to(LIBRARY).parts[0] in _CORE_NAMES)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content (of a Python file: its code), cached until its size or time changes."""
    if path.suffix != ".py":
        return cached_sha256(path)
    return _code_digest(path, path.stat().st_mtime_ns, path.stat().st_size)


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(LIBRARY).as_posix()}\0{file_digest(path)}".encode())
    return digest.hexdigest()[:8]


@lru_cache(maxsize=1024)
def _code_digest(path: Path, time_ns: int, size: int) -> str:
    return hashlib.sha256(_code(path)).hexdigest()


def _code(path: Path) -> bytes:
    collecting = gc.isenabled()
    gc.disable()  # Python 3.11 raises SystemError about the tree's depth if garbage collection runs code during it
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # being edited; no run can start from it
        return path.read_bytes()
    finally:
        if collecting:
            gc.enable()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return ast.dump(tree).encode()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> str | None:
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or None


def _git() -> dict[str, Any] | None:
    commit = _output("git", "-C", str(LIBRARY), "rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "dirty": bool(_output("git", "-C", str(LIBRARY), "status", "--porcelain", "."))}


def _output(*command: str) -> str:
    """A command's output; empty if it does not exist, fails or takes longer than 10 s."""
    if not shutil.which(command[0]):
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (subprocess.SubprocessError, OSError):
        return ""


def gpus() -> list[str]:
    """The GPUs that a process of this machine may use: CUDA_VISIBLE_DEVICES, else those that nvidia-smi lists.

    As CUDA does, a list is read up to its first invalid entry: ``0,-1,1`` is GPU 0 alone.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return list(takewhile(lambda gpu: gpu and gpu[0] != "-", map(str.strip, named.split(","))))
    return _output("nvidia-smi", "--query-gpu=index", "--format=csv,noheader").split()


def cpu_model() -> str:
    """The processor's name, as the system reports it."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def resident(name: str, process: int | str = "self") -> int:
    """Resident memory of a process in KiB: ``VmRSS`` now, ``VmHWM`` at its peak (Linux only)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
