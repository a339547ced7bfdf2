"""Where a run happened: interpreter, packages, machine, and the code's own state. No torch import."""

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
from functools import lru_cache
from pathlib import Path
from typing import Any

import csgn_lib

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "accelerate", "numpy", "pandas", "papermill")
LIBRARY = Path(csgn_lib.__file__).parent


def environment() -> dict[str, Any]:
    """What environment.json holds: python, platform, cpu, gpu, package versions, library and git state."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "gpu": _gpu(),
        "packages": {name: _version(name) for name in PACKAGES},
        "library": library_digest(),
        "git": _git(),
    }


def library_digest() -> str:
    """Eight hexadecimal digits of csgn_lib: its code without docstrings and comments, and its weights."""
    files = sorted(path for path in LIBRARY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return _digest(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=2)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.relative_to(LIBRARY).as_posix().encode() + b"\0")
        digest.update(_code(path) if path.suffix == ".py" else path.read_bytes())
    return digest.hexdigest()[:8]


def _code(path: Path) -> bytes:
    collecting = gc.isenabled()
    gc.disable()  # Python 3.11 loses count of a tree's depth (SystemError) if the collector runs code meanwhile
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # being edited: no run will start from it, but its text is still a digest
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
    """A command's output; empty if it is absent, fails or takes longer than 10 s."""
    if not shutil.which(command[0]):
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (subprocess.SubprocessError, OSError):
        return ""


def gpus() -> list[str]:
    """The GPUs that a process of this machine may use: CUDA_VISIBLE_DEVICES, else those that nvidia-smi lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    return _output("nvidia-smi", "--query-gpu=index", "--format=csv,noheader").split()


def cores() -> int:
    """CPU cores this process may use: its affinity, cut to the container's quota (at least 1)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # cgroup 2: "<microseconds> <period>", or "max <period>"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return count


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def resident(name: str, process: int | str = "self") -> int:
    """KiB of a process: ``VmRSS``, what is resident now, or ``VmHWM``, the most that was (Linux only)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
