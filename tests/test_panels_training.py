"""The training panels without a browser: callbacks are called directly, training is a real process."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import ipywidgets
import matplotlib.pyplot as plt
import pytest

from csgn_lib import panels, runs
from csgn_lib.config import Experiment
from csgn_lib.panels import background, parameters, reading, views
from csgn_lib.records import InputError, Run, write_json

SMALL = {"batch_persons": 4, "batch_images": 4, "stage1_epochs": 2, "stage1_batch": 64, "precision": "fp32"}
FIELDS = [name for name in Experiment.model_fields if name not in ("preset", "plugin")]


def _recorded(folder: Path, state: str = "done", epochs: int = 2, **status: object) -> Run:
    """A run's folder as training leaves it."""
    run = Run(folder)
    run.set_status(state, **status)
    for stage, terms in ((1, {"i2t_rgb": 2.0}), (2, {"id_f": 3.0, "triplet_f": 1.0, "images_per_second": 80.0})):
        for epoch in range(1, epochs + 1):
            run.append_metrics({"stage": stage, "epoch": epoch, "epochs": 5, "seconds": 4.0 * stage, **terms})
    return run


def _until(true, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


class TestReading:
    def test_run_is_read_with_progress_and_score(self, tmp_path):
        run = _recorded(tmp_path / "one", "running", heartbeat=time.time())
        seen = panels.read(run)
        assert (seen.state, seen.where, seen.images_per_second) == ("running", "stage 2, epoch 2/5", 80.0)
        assert seen.seconds_left == 3 * 8.0  # three epochs of stage 2, 8 s each; stage 1's 4 s do not count
        assert seen.last_metric == "loss 4" and seen.losses == [4.0, 4.0]
        write_json(run.path("results.json"), {"plain": {"protocols": {"cloth_changing": {"mean_ap": 0.25}}}})
        seen = panels.read(run)
        assert (seen.mean_ap, seen.protocol, seen.last_metric) == (0.25, "cloth_changing", "mAP 25.0%")
        assert seen.remarks == ()

    def test_damaged_lines_are_skipped_and_reported(self, tmp_path):
        run = _recorded(tmp_path / "one")
        whole = len(panels.read(run).records)
        with run.path("metrics.jsonl").open("a") as file:
            file.write('{"stage": 2, "epo#\n{"epoch": 3}\n[1]\n{"stage": 2, "epoch"')
        seen = panels.read(run)
        assert len(seen.records) == whole
        said = " ".join(seen.remarks)
        assert "half written" in said and "damaged in line 5" in said and "line 6, 7: an older version's" in said

    def test_unusable_folder_is_described(self, tmp_path):
        assert panels.read(Run(tmp_path / "none")).state == "gone"
        run = _recorded(tmp_path / "one")
        run.path("status.json").write_text('{"state": "runn')
        write_json(run.path("results.json"), {"plain": {"mAP": 0.3}})
        seen = panels.read(run)
        assert seen.state == "damaged" and "status.json cannot be read" in seen.remarks[0]
        assert any("older version" in remark for remark in seen.remarks) and seen.mean_ap is None
        for page in (panels.summary_table([seen]).data, panels.run_table(panels.board_frame(tmp_path)).data):
            assert "damaged" in page

    def test_curves_ignore_text_in_place_of_numbers(self, tmp_path):
        first, second = _recorded(tmp_path / "first"), _recorded(tmp_path / "second", epochs=4)
        second.append_metrics({"stage": 2, "epoch": 5, "id_f": "nan", "triplet_f": 1.0})
        seen = panels.readings([first, second])
        frame = panels.epochs(seen)
        assert frame.groupby("run").size().to_dict() == {"first": 4, "second": 9}
        figure = panels.training_curves(seen)
        assert [line.get_label() for line in figure.axes[0].get_lines()] == ["first", "second"]
        assert panels.training_curves([]) is None
        plt.close(figure)

    def test_run_without_score_after_last_epoch_is_being_scored(self, tmp_path):
        run = _recorded(tmp_path / "one", "running", heartbeat=time.time(), epochs=5)
        assert panels.read(run).where == "scoring"
        report = "embedding gallery images: 30 %, 4,800 of 15,913, 12 s left"
        run.path("console.txt").write_text(f"$ csgn train\n{report}\nsomething else\n")
        assert panels.read(run).where == f"scoring, {report}"
        run.set_status("done")
        assert panels.read(run).where == "stage 2, epoch 5/5"

    def test_run_names_benchmark(self, tmp_path):
        run = _recorded(tmp_path / "one", parameters={"benchmark": "synthetic", "world": 3, "root": None})
        assert panels.read(run).benchmark == "synthetic, world 3"
        experiment = Experiment.from_parameters(benchmark="prcc", root="/data/prcc")
        write_json(run.path("config.json"), experiment.model_dump(mode="json"))
        assert panels.read(run).benchmark == panels.named(experiment) == "prcc, prcc"
        assert panels.read(_recorded(tmp_path / "two")).benchmark == "unknown"

    def test_folder_content_is_escaped(self, tmp_path):
        alive = {"heartbeat": time.time(), "host": socket.gethostname(), "memory_mib": "<s>"}
        run = _recorded(tmp_path / "<u>one", "running", **alive)
        run.append_metrics({"stage": 2, "epoch": 3, "epochs": "<b>", "seconds": "<b>", "images_per_second": "<b>"})
        cell = _recorded(tmp_path / "two", "failed", 0, cell="<b>", cells="<b>", error="<b>", notebook="<b>.ipynb")
        seen = panels.readings([run, cell])
        assert (seen[0].where, seen[0].images_per_second, seen[0].seconds_left) == ("stage 2, epoch 3", 80.0, None)
        for page in (panels.summary_table(seen).data, panels.run_table(panels.board_frame(tmp_path)).data):
            assert not any(tag in page for tag in ("<u>", "<s>", "<b>")) and "&lt;u&gt;one" in page

    def test_single_epoch_is_visible(self, tmp_path):
        single = panels.training_curves([panels.read(_recorded(tmp_path / "one", epochs=1))])
        assert all(tick == round(tick) for tick in single.axes[0].get_xticks())
        run = panels.read(_recorded(tmp_path / "two", epochs=2))
        drawn = [axes.get_lines()[0].get_marker() for axes in panels.training_curves([run]).axes if axes.get_visible()]
        assert single.axes[0].get_lines()[0].get_marker() == "o" and set(drawn) == {"None"}


class TestBoard:
    def test_board_lists_filters_and_shows_command(self, tmp_path):
        experiment = Experiment.from_parameters(beta=0.25, seed=3)
        facts = {"parameters": experiment.model_dump(mode="json"), "error": "RuntimeError: <b>"}
        _recorded(tmp_path / "broke", "failed", **facts)
        again = "csgn run 12_train -p beta 0.5"
        _recorded(tmp_path / "stopped", "interrupted", notebook="notebooks/12_train.ipynb", command=again)
        _recorded(tmp_path / "good", "done")
        frame = panels.board_frame(tmp_path).set_index("run")
        assert frame.loc["broke", "again"].startswith("csgn train --preset demo --seed 3 --set beta=0.25 --run-dir ")
        assert frame.loc["stopped", "again"] == f"{again} --run-dir {tmp_path / 'stopped'}"
        assert frame.loc["good", "again"] == ""
        board = panels.Board(tmp_path)
        assert "RuntimeError: &lt;b&gt;" in board.table.value
        board.state.value = "interrupted"
        assert "stopped" in board.table.value and "broke" not in board.table.value
        board.state.value, board.kind.value = "all", "train"
        assert "broke" in board.table.value and "stopped" not in board.table.value
        shutil.rmtree(tmp_path / "broke"), shutil.rmtree(tmp_path / "good")
        board.refresh()
        assert board.kind.value == "all" and "stopped" in board.table.value

    def test_board_before_first_run_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CSGN_HOME", str(tmp_path))
        board = panels.Board()
        assert board.frame.empty and "There are no runs yet" in board.table.value
        with pytest.raises(InputError, match="is not a folder"):
            panels.Board(tmp_path / "nowhere")

    def test_states_are_distinguishable_without_colour(self):
        assert len({mark for mark, _ in reading.MARKS.values()}) >= len(reading.MARKS) - 1  # gone and missing
        assert set(reading.MARKS) >= {"running", "queued", "done", "failed", "died", "timed_out", "interrupted"}


class TestParameters:
    @pytest.mark.parametrize("name", FIELDS)
    def test_every_field_has_widget_with_its_value(self, name):
        panel = panels.ParameterPanel()
        for preset in ("demo", "ltcc-paper"):
            experiment = Experiment.from_parameters(preset=preset)
            panel.show(experiment)
            assert panel.values()[0][name] == getattr(experiment, name)
        assert isinstance(panel.widgets[name], ipywidgets.ValueWidget)
        meaning = parameters.in_words(Experiment.model_fields[name].description)
        shown = html.unescape(panel.help[name].value)
        assert meaning and not meaning.startswith("("), "a meaning, not only where the value comes from"
        assert meaning[1:] in shown and not re.search(r"\[[ACPO]\b|[≤≥<>] \d", shown.replace("small>", ""))

    def test_widget_types(self):
        panel = panels.ParameterPanel()
        kinds = {name: type(panel.widgets[name]).__name__ for name in FIELDS}
        assert (kinds["mdg"], kinds["beta"], kinds["prompt_tokens"]) == ("Dropdown", "FloatSlider", "IntSlider")
        assert (kinds["stage1_lr"], kinds["ema"], kinds["compile"]) == ("FloatText", "Text", "Dropdown")
        assert panel.widgets["mdg"].options == tuple((m, m) for m in Experiment.model_fields["mdg"].annotation.__args__)

    def test_form_sends_few_messages(self, monkeypatch):
        opened, open_one = [], ipywidgets.Widget.open
        monkeypatch.setattr(ipywidgets.Widget, "open", lambda widget: opened.append(widget) or open_one(widget))
        panels.ParameterPanel()
        assert 0 < len(opened) < 500

    def test_new_field_of_any_type_has_widget(self):
        class Later(Experiment):
            flag: bool = True
            fixed: Literal["only"] = "only"
            either: int | str = 3
            weights: dict[str, float] = {}
            maybe: Literal["a", "b"] | None = None

        found, alike = {field.name: field for field in parameters.fields(Later)}, parameters.Alike()
        made = {name: parameters.widget_for(field, alike, alike.layout) for name, field in found.items()}
        kinds = {name: type(widget).__name__ for name, widget in made.items()}
        assert kinds["flag"] == "Checkbox" and kinds["fixed"] == "Dropdown" and kinds["maybe"] == "Dropdown"
        assert kinds["either"] == kinds["weights"] == "Text" and found["maybe"].nullable

    def test_origin_marks_are_written_in_words(self):
        assert (
            parameters.in_words("pixels [C: 12]; none: a patch") == "pixels (CLIP-ReID's convention: 12); none: a patch"
        )
        assert parameters.in_words("stage 1 [A, form O]") == "stage 1 (the paper's abstract, in a form of our choice)"
        found = {field.name: field.limits for field in parameters.fields()}
        assert (found["beta"], found["stage1_lr"]) == ("at least 0 and at most 1", "more than 0")

    def test_invalid_value_is_shown_and_disables_start(self):
        panel = panels.ParameterPanel()
        assert not panel.start.disabled
        panel.widgets["batch_persons"].value = 1
        panel.widgets["ema"].value = "often"
        assert "greater than or equal to 2" in panel.help["batch_persons"].value
        assert "valid number" in panel.help["ema"].value
        assert "alert" not in panel.help["beta"].value and panel.experiment is None and panel.start.disabled
        assert re.search("batch_persons: [^;]*greater than or equal to 2; ema: .*valid number|"
                         "ema: .*valid number[^;]*; batch_persons: .*greater than", panel.difference.value)  # fmt: skip
        panel.widgets["batch_persons"].value, panel.widgets["ema"].value = 8, "0.9"
        assert panel.experiment.difference() == {"batch_persons": 8, "ema": 0.9} and not panel.start.disabled
        assert "Parameters that differ from the preset demo: 2." in panel.difference.value
        assert "batch_persons" in panel.difference.value and "beta" not in panel.difference.value

    def test_changing_preset_keeps_changed_values(self):
        panel = panels.ParameterPanel()
        panel.widgets["beta"].value = 0.25
        panel.setting.value, panel.method.value = "ltcc-paper", "random-text"
        assert panel.experiment == Experiment.from_parameters(preset="ltcc-paper+random-text", beta=0.25)
        assert "--preset ltcc-paper+random-text --seed 0 --set beta=0.25" in panel.line.value

    def test_estimate_equals_dry_run(self, tiny_root):
        panel = panels.ParameterPanel(Experiment.from_parameters(root=str(tiny_root), **SMALL))
        panel.estimate.click()
        assert "needs at least, in all" in panel.needs.value and "pixels of 168 images" in panel.needs.value
        panel.widgets["vss"].value = "resnet"
        panel.start.click()
        assert "set hsf=none" in panel.needs.value and panel.start.disabled


class TestDashboard:
    def test_runs_are_grouped_by_benchmark(self, tmp_path):
        for name, world, epochs in (("old", 0, 2), ("bare", 0, 0), ("new", 0, 2), ("other", 1, 2)):
            facts = {"parameters": {"benchmark": "synthetic", "root": None, "world": world}, "heartbeat": time.time()}
            run = _recorded(tmp_path / name, "running" if name == "bare" else "done", epochs, **facts)
            os.utime(run.path("status.json"), (1e9 + len(name) + epochs + world,) * 2)
        panel = panels.TrainingDashboard([tmp_path / "old", tmp_path / "other"], folder=tmp_path)
        assert panel.benchmark.options == ("synthetic, world 0", "synthetic, world 1")
        assert [run.dir.name for run in panel.chosen] == ["old"] and "another benchmark" in panel.message.value
        labels = [label for label, _ in panel.runs.options]
        assert set(labels[:2]) == {"old", "new"} and labels[2:] == ["bare (no curves)"]
        panel.benchmark.value = "synthetic, world 1"
        assert panel.runs.options == (("other", "other"),)
        assert "No run is chosen" in panel.table.value and "<img" not in panel.curves.value

    def test_curves_have_widget_width_and_fixed_height(self, tmp_path):
        before = plt.get_fignums()
        panel = panels.TrainingDashboard([_recorded(tmp_path / "one")], folder=tmp_path)
        for width in (0, 640, 1200):
            panel.curves.width = width
            found = re.search(r'base64,([^"]+)" width="(\d+)" height="(\d+)"', panel.curves.value)
            assert (int(found[2]), int(found[3])) == (width or 900, 430)
            inches = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', base64.b64decode(found[1]).decode())
            assert float(inches[1]) / float(inches[2]) == pytest.approx((width or 900) / 430, rel=0.01)
        panel.runs.value = ()
        assert "min-height:430px" in panel.curves.value and "<img" not in panel.curves.value
        assert plt.get_fignums() == before


def test_panel_has_note_for_readers_without_kernel(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(views, "display", lambda *given: shown.extend(given))
    panels.show("The <b>", ipywidgets.HTML("x"))
    note, box = shown
    assert "The &lt;b&gt;" in note.data and "needs a running kernel" in note.data
    assert "csgn-live" in box._dom_classes and ".csgn-live" in note.data


HOLDS = """
import sys, time
from pathlib import Path
from csgn_lib import runs
from csgn_lib.records import Run, stop_on_sigterm

if sys.argv[1] == "csgn":
    stop_on_sigterm()
with runs.recorded(Run(Path(sys.argv[2]))):
    time.sleep(120)
"""


class TestStop:
    """A process is asked to stop for what it holds and recorded, whatever its command line says."""

    @pytest.fixture
    def started(self, tmp_path):
        """Start a process that works on ``tmp_path / run``; a word in its command line names its program."""
        children = []

        def start(program: str) -> tuple[subprocess.Popen[bytes], Run]:
            run = Run(tmp_path / "run")
            variables = os.environ | {"PYTHONPATH": str(runs.machine.LIBRARY.parent)}
            command = [sys.executable, "-c", HOLDS, program, str(run.dir)]
            children.append(subprocess.Popen(command, env=variables, start_new_session=True))
            _until(lambda: run.path("environment.json").exists() and runs.state(run) == "running")
            return children[-1], run

        yield start
        for child in children:
            child.kill()
            child.wait()

    def test_locking_process_is_interrupted(self, started):
        child, run = started("csgn")
        assert "was asked to stop" in runs.stop(run)
        child.wait(60)
        assert runs.state(run) == "interrupted" and run.status["error"] == runs.folders.STOPPED

    def test_other_program_is_not_stopped(self, started):
        child, run = started("/opt/csgn/kernel")  # as every process of a checkout in a folder of that name does
        with pytest.raises(InputError, match="another program than csgn"):
            runs.stop(run)
        assert child.poll() is None

    def test_process_with_several_locks_is_a_sweep(self, tmp_path, monkeypatch):
        monkeypatch.setattr(runs.folders, "stops_on_sigterm", lambda: True)
        with runs.recorded(Run(tmp_path / "one")), runs.recorded(Run(tmp_path / "two")):
            with pytest.raises(InputError, match="one is a cell of a sweep: .* works on two too"):
                runs.stop(Run(tmp_path / "one"))

    def test_unrelated_process_is_not_stopped(self, tmp_path):
        stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            run = _recorded(tmp_path / "one", "running", pid=stranger.pid, heartbeat=time.time())
            with pytest.raises(InputError, match="no process has locked one"):
                runs.stop(run)
            run.set_status("running", pid=stranger.pid, heartbeat=time.time(), process_start=1.0)
            with pytest.raises(InputError, match="one is died"):  # its number was given to another process
                runs.stop(run)
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_reason_for_not_stopping_is_reported(self, tmp_path):
        with pytest.raises(InputError, match="is done: there is nothing to stop"):
            runs.stop(_recorded(tmp_path / "done"))
        with pytest.raises(InputError, match="runs on elsewhere"):
            runs.stop(_recorded(tmp_path / "far", "running", host="elsewhere", heartbeat=time.time()))
        with pytest.raises(InputError, match="waits for its sweep"):
            runs.stop(_recorded(tmp_path / "waits", "queued", pid=os.getpid(), host=socket.gethostname()))
        with pytest.raises(InputError, match="only a run that ended"):
            background.resume(Run(tmp_path / "done"))


def test_training_starts_stops_continues_and_outlives_panel(tiny_root, tmp_path, monkeypatch, request):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    request.addfinalizer(lambda: [child.kill() for child in background._STARTED if child.poll() is None])
    experiment = Experiment.from_parameters(root=str(tiny_root), stage2_epochs=400, vss="none", **SMALL)
    followed: list[Run] = []
    panel = panels.ParameterPanel(experiment, followed.append)
    panel.start.click()
    [run] = followed
    first = panels.TrainingDashboard([run])
    assert panels.read(run).state in ("queued", "running") and not first.stop.disabled
    panel.start.click()  # a second time: refused while it runs
    message = panel.message.value
    assert "was started" not in message and ("is running" in message or "queued" in message)
    _until(lambda: any(record["stage"] == 2 for record in panels.read(run).records))
    del first
    second = panels.TrainingDashboard()  # as after a new kernel: it knows nothing but the folder
    assert [shown.dir.name for shown in second.chosen] == [run.dir.name]
    assert "image/svg+xml" in second.curves.value and "▶ running" in second.table.value
    assert panels.read(run).memory_mib > 50 and panels.read(run).seconds_left > 0
    second.stop.click()
    assert "was asked to stop" in second.message.value
    _until(lambda: panels.read(run).state == "interrupted")
    second.refresh()
    assert "it was stopped; it can continue" in second.table.value
    before = len(panels.read(run).records)
    assert second.stop.disabled and not second.resume.disabled and list(run.path("checkpoint").iterdir())
    second.resume.click()
    _until(lambda: len(panels.read(run).records) > before)
    second.refresh()
    second.stop.click()
    _until(lambda: panels.read(run).state == "interrupted")
    epochs = [record["epoch"] for record in panels.read(run).records if record["stage"] == 2]
    assert epochs == list(range(1, len(epochs) + 1))  # it continued and did not start again
    shutil.rmtree(run.dir)
    second.refresh()
    assert "its folder is gone" in second.table.value


def test_failed_process_reports_last_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    run = panels.start(Experiment.from_parameters(root=str(tmp_path / "nowhere")))
    _until(lambda: panels.read(run).state != "queued")
    seen = panels.read(run)
    assert seen.state == "interrupted" and "nowhere" in seen.remarks[0]


def test_panel_updates_until_closed(tmp_path):
    async def look() -> list[int]:
        run = _recorded(tmp_path / "one", "running", heartbeat=time.time())
        panel = panels.TrainingDashboard([run], folder=tmp_path, every=0.02)
        panel.follow()
        seen = []
        for _ in range(2):
            before = panel.table.value
            run.append_metrics({"stage": 2, "epoch": len(panels.read(run).records) - 1, "epochs": 9, "id_f": 1.0})
            for _ in range(200):
                await asyncio.sleep(0.02)
                if panel.table.value != before:
                    break
            seen.append(panel.table.value.count("/9"))
        task = panel.task
        panel.close()
        await asyncio.sleep(0.05)
        assert task.cancelled() and not panel.following.value
        before = panel.table.value
        run.set_status("done")
        await asyncio.sleep(0.1)
        assert panel.table.value == before
        return seen

    assert asyncio.run(look()) == [1, 1]


def test_board_beside_the_dashboard_lists_new_run(tmp_path):
    async def look() -> str:
        _recorded(tmp_path / "one")
        board = panels.Board(tmp_path)
        panel = panels.TrainingDashboard(folder=tmp_path, every=0.02, beside=board.refresh)
        panel.follow()
        _recorded(tmp_path / "two", "failed")
        for _ in range(200):
            await asyncio.sleep(0.02)
            if "two" in board.table.value:
                break
        panel.close()
        return board.table.value

    assert "✖ failed" in asyncio.run(look())


def test_panel_reports_why_it_stopped(tmp_path, monkeypatch):
    async def look() -> str:
        panel = panels.TrainingDashboard([_recorded(tmp_path / "one")], folder=tmp_path, every=0.02)
        monkeypatch.setattr(panel, "refresh", lambda: json.loads("{"))
        panel.follow()
        await asyncio.sleep(0.1)
        return panel.message.value

    assert "stopped following" in asyncio.run(look())
