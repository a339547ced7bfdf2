"""Atomic writes, and errors that name damaged files."""

import os
import stat

import pytest

from csgn_lib import records
from csgn_lib.records import InputError, Run, atomic_path, home, read_json, write_json, write_text
from csgn_lib.training.checkpoints import Checkpoints


def test_failed_write_keeps_old_file(tmp_path):
    target = tmp_path / "deep" / "results.json"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["results.json"]


@pytest.fixture
def reached(monkeypatch) -> list[str]:
    """What has reached the disk for good, in order: files and folders by name, and renames."""
    seen, sync, replace = [], os.fsync, os.replace

    def synced(handle: int) -> None:
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: seen.append("renamed") or replace(*names))
    return seen


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux tells which file a handle is of")
def test_write_survives_power_failure(tmp_path, reached):
    """The content before the rename, the rename before anything that counts on it, each in its folder."""
    write_text(tmp_path / "a.txt", "new")
    content, renamed, folder = reached
    assert content.startswith(".a-") and (renamed, folder) == ("renamed", tmp_path.name)
    reached.clear()
    Run(tmp_path).append_metrics({"stage": 1, "epoch": 1})
    assert reached == ["metrics.jsonl"]
    reached.clear()
    Checkpoints(tmp_path).save(1, 1, 1, {})
    saved = next(tmp_path.glob("1-*.pt")).name
    assert reached[0].startswith(".new-") and reached[-2:] == ["renamed", tmp_path.name] and saved


def test_disk_error_names_file_and_remedy(tmp_path, monkeypatch):
    def full(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "metrics.jsonl").mkdir()  # for one that cannot be opened
    monkeypatch.setattr(records.tempfile, "mkstemp", full)
    run = Run(tmp_path)
    for write, name in (
        (lambda: run.set_status("running"), "status.json"), (lambda: run.append_metrics({}), "metrics.jsonl"),
    ):  # fmt: skip
        with pytest.raises(records.DiskError, match=f"{name} cannot be written .*make room"):
            write()


def test_written_file_is_readable_by_others(tmp_path):
    write_text(tmp_path / "report.txt", "text")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "report.txt").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")]])
def test_non_standard_json_is_refused(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b'{"a": ', b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path, damage):
    path = tmp_path / "config.json"
    with pytest.raises(InputError, match="does not exist"):
        read_json(path)
    path.write_bytes(damage)
    with pytest.raises(InputError, match="config.json is not valid JSON"):
        read_json(path)


def test_metrics_survive_truncated_line(tmp_path):
    run = Run(tmp_path / "run")
    assert run.metrics() == []
    run.append_metrics({"epoch": 1})
    run.append_metrics({"epoch": 2})
    with run.path("metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]
    run.append_metrics({"epoch": 3})
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    run.path("metrics.jsonl").write_text('{"epoch": 1}\n{"epoch"\n')
    with pytest.raises(InputError, match="metrics.jsonl is damaged"):
        run.metrics()


def test_status_must_be_known(tmp_path):
    run = Run(tmp_path)
    run.set_status("failed", cell=3)
    assert run.status["state"] == "failed" and run.status["cell"] == 3 and run.status["pid"] == os.getpid()
    with pytest.raises(InputError, match="finished"):
        run.set_status("finished")
    assert run.status["state"] == "failed"


def test_home_from_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("CSGN_HOME")
    assert (home() / "csgn_lib").is_dir()  # tests run from a checkout
