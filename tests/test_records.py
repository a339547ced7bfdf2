"""Files appear whole or not at all, and damaged ones are named."""

import os
import stat

import pytest

from csgn_lib.records import InputError, Run, atomic_path, home, read_json, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "deep" / "results.json"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["results.json"]


def test_a_written_file_can_be_read_by_others(tmp_path):
    write_text(tmp_path / "report.txt", "text")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "report.txt").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")]])
def test_json_that_no_reader_knows_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b'{"a": ', b"\xff\xfe"])
def test_a_damaged_json_file_is_named(tmp_path, damage):
    path = tmp_path / "config.json"
    with pytest.raises(InputError, match="does not exist"):
        read_json(path)
    path.write_bytes(damage)
    with pytest.raises(InputError, match="config.json is not valid JSON"):
        read_json(path)


def test_metrics_survive_a_line_that_a_crash_cut_off(tmp_path):
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


def test_the_status_is_one_of_the_known_words(tmp_path):
    run = Run(tmp_path)
    run.set_status("failed", cell=3)
    assert run.status["state"] == "failed" and run.status["cell"] == 3 and run.status["pid"] == os.getpid()
    with pytest.raises(InputError, match="finished"):
        run.set_status("finished")
    assert run.status["state"] == "failed"


def test_home_is_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("CSGN_HOME")
    assert (home() / "csgn_lib").is_dir()  # tests run from a checkout
