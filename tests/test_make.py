"""The Makefile's installation: one line per step, pip's output in a log file that is named on failure."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
INTERPRETER = """#!/bin/sh
case "$*" in
  --version) echo "Python 3.12.1" ;;
  "-m venv --clear .venv") mkdir -p .venv/bin && cp installed .venv/bin/python ;;
esac
"""
INSTALLED = """#!/bin/sh
case "$*" in
  *--no-index*) exit {offline} ;;
  *install*) echo "Collecting torch"; echo "Successfully installed" >&2; exit {online} ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A project folder whose name has a space and an umlaut; no .venv, and an interpreter that makes a fake one."""
    folder = tmp_path / "csgn wörkbench"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(HOME / name, folder / name)
    (folder / "python").write_text(INTERPRETER)
    (folder / "python").chmod(0o755)

    def make(offline: int, online: int) -> subprocess.CompletedProcess:
        (folder / "installed").write_text(INSTALLED.format(offline=offline, online=online))
        (folder / "installed").chmod(0o755)
        command = ["make", "--no-print-directory", "install", "PYTHON=./python"]
        # as from a terminal: a make that runs the tests would have its level and flags printed
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)

    return folder, make


def test_new_environment_prints_two_lines_and_writes_log(project):
    folder, make = project
    done = make(offline=1, online=0)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.splitlines() == [
        "creating .venv with Python 3.12.1",
        "installing packages into .venv: about 3 GB, some minutes; log: build/install.log",
    ]
    assert (folder / "build" / "install.log").read_text().splitlines() == ["Collecting torch", "Successfully installed"]
    assert make(offline=1, online=1).stdout.strip() == "make: Nothing to be done for 'install'."


def test_complete_environment_installs_offline(project):
    folder, make = project
    assert make(offline=0, online=1).stdout.splitlines() == ["creating .venv with Python 3.12.1"]
    assert not (folder / "build").exists()


def test_failure_names_log_and_is_retried(project):
    folder, make = project
    failed = make(offline=1, online=1)
    assert failed.returncode != 0
    assert (
        "csgn: the installation failed; see build/install.log" in failed.stderr and "Collecting torch" in failed.stderr
    )
    (folder / ".venv" / "bin" / "python").unlink()
    assert make(offline=0, online=0).returncode == 0
