"""Plugins: registered variants are trained, recorded, resumed and exported; invalid ones are errors."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import trees
from small_runs import small, told
from test_runs import write_notebook

from csgn_lib import datasets, figures, models, registry, retrieval, runs, synthetic, training
from csgn_lib import plugins as plugin_files
from csgn_lib.__main__ import main
from csgn_lib.config import Experiment, plugins_of, with_plugins
from csgn_lib.models import exporting
from csgn_lib.panels import parameters
from csgn_lib.records import InputError, Run, read_json
from csgn_lib.runs import executors, folders, notebooks
from csgn_lib.training import run_files

HOME = Path(__file__).resolve().parents[1]
PLUGINS = HOME / "tests" / "plugins"
PULL = str(PLUGINS / "pull.py")


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    """A plugin's file with the imports that each needs."""
    path = folder / name
    head = "from typing import Annotated\nfrom pydantic import Field\nfrom csgn_lib import registry\n"
    path.write_text(head + text)
    return str(path)


def call(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    """(status, standard output, standard error) of one command."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capsys.readouterr()
    return left.value.code or 0, captured.out, captured.err


# ---------------------------------------------------------------- the documented examples


def test_documented_files_equal_tested_files():
    page = (HOME / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    assert blocks == [(PLUGINS / f"{name}.py").read_text() for name in ("pull", "mall", "convnext")]
    assert len(blocks[0].splitlines()) <= 25


@pytest.fixture(scope="module")
def pulled(people, tmp_path_factory) -> Run:
    experiment = small(hsf="none", plugin=PULL, pull_weight=0.5)
    return training.fit(experiment, people, tmp_path_factory.mktemp("pulled"))


def test_loss_plugin_is_weighted_term_of_stage_2(people, pulled, tmp_path):
    plain = training.fit(small(hsf="none"), people, tmp_path / "plain")
    half = training.fit(small(hsf="none", plugin=PULL, pull_weight=0.0), people, tmp_path / "half")
    assert all(record["pull"] > 0 for record in pulled.metrics())
    assert [record["pull"] for record in half.metrics()] == [0.0, 0.0]
    rest = [{name: value for name, value in record.items() if name != "pull"} for record in told(half)]
    assert rest == told(plain)  # a term of weight 0 changes nothing
    assert plain.path("model.safetensors").read_bytes() == half.path("model.safetensors").read_bytes()
    assert plain.path("model.safetensors").read_bytes() != pulled.path("model.safetensors").read_bytes()


def test_loss_plugin_equals_loop():
    form = with_plugins(PULL).from_parameters(plugin=PULL, pull_weight=2.0).added("stage2_term")["pull"]
    f, person = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1])
    step = training.Stage2Step(training.stage2.Embeddings(None, None, f, None), None, None, training.Stage2Targets())
    object.__setattr__(step, "batch", type("Batch", (), {"person": person}))
    total = 0.0
    for i in range(5):
        mean = torch.stack([f[j] for j in range(5) if person[j] == person[i]]).mean(dim=0)
        total += float((f[i] - mean).square().sum())
    assert float(form(step)) == pytest.approx(2 * total / 5, rel=1e-5)


def test_run_contains_plugins_and_digests(pulled):
    digest = hashlib.sha256(Path(PULL).read_bytes()).hexdigest()
    assert pulled.path("plugins", "pull.py").read_bytes() == Path(PULL).read_bytes()
    origin = read_json(pulled.path("towers.json"))
    assert origin["plugins"] == {"pull.py": digest} and origin["terms"][-1] == "pull"
    assert read_json(pulled.path("config.json"))["plugin"] == ["pull.py"]
    assert pulled.config["plugin"] == [str(pulled.path("plugins", "pull.py"))]
    assert pulled.config["pull_weight"] == 0.5


def test_benchmark_protocol_and_network_plugins(tmp_path, monkeypatch):
    people = {"train": ("001", "002"), "query": ("003", "004"), "gallery": ("003", "004")}
    root = trees.images(tmp_path / "mall", [
        f"{folder}/{pid}-{outfit}-cam{camera}-{number:04d}.jpg"
        for number, folder in enumerate(people, start=1) for pid in people[folder]
        for camera, outfit in enumerate(("red", "blue"), start=1)
    ])  # fmt: skip
    named = [str(PLUGINS / name) for name in ("mall.py", "convnext.py")]
    experiment = small(
        plugin=named, benchmark="mall", root=str(root), vss="steer", hsf="none", resnet_model="convnext_branch",
        convnext_size="atto", batch_persons=2, image_height=64, image_width=32,
    )  # fmt: skip
    benchmark = datasets.load(experiment.benchmark, experiment.root)
    assert benchmark.protocols[0] == "cloth_changing" and "any_camera" in benchmark.protocols
    assert benchmark.protocol("any_camera").junk == ()
    run = training.fit(experiment, benchmark, tmp_path / "run")
    assert training.load_encoder(run).widths["c"] == 320
    scores = retrieval.evaluate(torch.randn(4, 8), torch.randn(4, 8), benchmark.query, benchmark.gallery, "any_camera")
    assert scores.counted == 4
    with pytest.raises(InputError, match="unknown protocol 'any_camera' on ltcc"):
        datasets.protocol("any_camera", "ltcc")


FORMS = dict(
    plugin=str(PLUGINS / "forms.py"), mdg="gray_only", gray_share=0.75, vss="mean", mean_bias=True, hsf="strict"
)


def test_every_part_can_be_a_plugin(people, tmp_path, monkeypatch):
    experiment = small(**FORMS)
    run = training.fit(experiment, people, tmp_path / "run")
    first, second = run.metrics()[0], run.metrics()[-1]
    assert {"i2t_rgb", "t2i_gray"} <= set(first) and {"text", "id_f"} <= set(second)
    encoder = training.load_encoder(run)
    assert encoder.join.project.bias is not None
    scored = retrieval.score_run(run, people)
    assert list(scored)[0] == "plain" and list(scored)[-1] == "f alone"
    assert run.results["f alone"]["descriptor"] == "[f alone]"
    chosen = retrieval.chosen_descriptors(run)["f alone"]
    embeddings = training.stage2.Embeddings(None, None, torch.tensor([[3.0, 4.0]]), None)
    torch.testing.assert_close(retrieval.features_of(chosen)(embeddings), torch.tensor([[0.6, 0.8]]))

    monkeypatch.setattr(exporting, "missing_packages", lambda: ["onnx"])
    exported = models.export(run.dir, tmp_path / "exported").folder
    assert (exported / "plugins" / "forms.py").exists() and read_json(exported / "config.json")["plugin"] == [
        "forms.py"
    ]
    code = (
        "import sys; from csgn_lib.records import Run; from csgn_lib.training import load_encoder\n"
        "print(sum(value.double().sum().item() for value in load_encoder(Run(sys.argv[1])).state_dict().values()))"
    )
    given = dict(cwd=tmp_path, capture_output=True, text=True, timeout=200)
    command = [sys.executable, "-c", code, str(exported)]
    refused = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(HOME)}, **given)
    assert "brings the plugin forms.py, a program that opening it would run" in refused.stderr
    trusted = os.environ | {"PYTHONPATH": str(HOME), "CSGN_TRUST_PLUGINS": "1"}
    opened = subprocess.run(command, env=trusted, **given)
    total = sum(value.double().sum().item() for value in encoder.state_dict().values())
    assert opened.returncode == 0 and float(opened.stdout) == pytest.approx(total)


# ---------------------------------------------------------------- parameters


def test_plugin_parameters_are_experiment_parameters(capsys, tiny_root):
    experiment = Experiment.from_parameters(plugin=PULL, pull_weight=0.3)
    assert experiment.difference() == {"pull_weight": 0.3, "plugin": (PULL,)}
    assert re.search(r"^\* pull_weight +0\.3 +demo: 0\.01$", experiment.table(), re.M)
    assert type(experiment).model_fields["pull_weight"].description == "weight of the pull"
    assert experiment.digest() != Experiment.from_parameters(plugin=PULL).digest() != Experiment().digest()
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    again = Experiment.from_parameters(**experiment.model_dump(mode="json"))
    assert again == experiment and "pull_weight" not in Experiment.model_fields
    panel = parameters.ParameterPanel(experiment)
    assert panel.experiment == experiment and panel.widgets["pull_weight"].value == 0.3
    assert panel.fields[-1].group == "Plugins" and "Weight of the pull" in panel.help["pull_weight"].value
    assert set(figures.parameter_table(experiment).changed.index) == {"pull_weight", "plugin"}

    words = ["train", "--dry-run", "--set", f"root={tiny_root}", "--set", "batch_persons=4"]
    status, out, _ = call(capsys, *words, "--plugin", PULL, "--set", "pull_weight=0.25")
    assert status == 0 and re.search(r"^\* pull_weight +0\.25 ", out, re.M)
    status, _, err = call(capsys, *words, "--set", f"plugin={PULL}", "--set", "pull_weight=-1")
    assert status == 2 and "parameter pull_weight = -1" in err and "greater than or equal to 0" in err
    status, _, err = call(capsys, *words, "--set", "pull_weight=0.25")
    assert status == 2 and "unknown parameter 'pull_weight'" in err


def test_registry_is_the_only_list_of_variants():
    for kind in ("mdg", "vss", "hsf"):
        assert Experiment.model_fields[kind].annotation.__args__ == registry.names(kind)
        for name, entry in registry.entries(kind, ()).items():
            assert callable(entry.code) and entry.meaning, (kind, name)
            assert set(entry.parameters) <= set(Experiment.model_fields)
    assert tuple(registry.entries("benchmark", ())) == datasets.NAMES
    assert registry.names("descriptor") == (retrieval.PLAIN, retrieval.CLOTHING_REMOVED, retrieval.PERSON_ONLY)
    extended = with_plugins(str(PLUGINS / "forms.py"))
    assert extended.model_fields["hsf"].annotation.__args__ == (*registry.names("hsf"), "strict")
    with pytest.raises(InputError, match="parameter hsf = 'strict'"):
        Experiment.from_parameters(hsf="strict")


def test_plugin_can_be_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "my_idea"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .inner import pull\n")
    (package / "inner.py").write_text(Path(PULL).read_text())
    info = tmp_path / "site" / "my_idea-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-idea\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[csgn.plugins]\nidea = my_idea\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    experiment = Experiment.from_parameters(plugin="idea", pull_weight=0.3)
    assert experiment.plugins == {"idea": plugin_files.content_digest(package)}
    plugin_files.keep_copies(experiment.loaded, tmp_path / "run")
    assert (tmp_path / "run" / "plugins" / "idea" / "inner.py").exists()


def test_a_benchmarks_reader_has_parameters_and_a_folder_of_its_own(tmp_path, tiny_root, monkeypatch):
    text = (
        "from dataclasses import replace\nfrom csgn_lib.datasets import ltcc\n"
        "@registry.register('benchmark', 'first', folder='First_People')\n"
        "def read(root, name, *, first_people: Annotated[int, Field(ge=1, description='people')] = 2):\n"
        "    found = ltcc.read(root, name)\n"
        "    return replace(found, train=found.train[found.train.person < first_people])\n"
    )
    values = dict(plugin=write(tmp_path, text), benchmark="first")
    found = synthetic.benchmark_for(small(**values, first_people=3, root=str(tiny_root)))
    assert found.name == "first" and found.train.person.nunique() == 3
    monkeypatch.setenv("CSGN_DATA", str(tmp_path))
    (tmp_path / "First_People").symlink_to(Path(tiny_root).resolve())
    assert datasets.load("first").train.person.nunique() == 2


# ---------------------------------------------------------------- what is wrong is named

REGISTER = "@registry.register('stage2_term', 'x')\ndef x(step, *, {0}):\n    return 0.0\n"
WRONG = {
    "raise RuntimeError('no licence')": "mine.py cannot be imported: RuntimeError: no licence (line 4 of mine.py)",
    "def f(:": "mine.py cannot be imported: SyntaxError",
    "import nowhere_to_be_found": "cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
    "raise SystemExit(3)": "cannot be imported: SystemExit",
    "x = 1": "registers nothing; call csgn_lib.registry.register in it",
    REGISTER.format("a: float = 1.0"): "parameter a of stage2_term 'x' of plugin mine.py has no type and description",
    REGISTER.format("a=1.0"): "has no type and description; write a: Annotated[float, Field(ge=0, description=",
    REGISTER.format("a: Annotated[float, Field()] = 1.0"): "parameter a of stage2_term 'x' of plugin mine.py has no d",
    REGISTER.format("a: Annotated[float, Field(description='d')]"): "has no default",
    REGISTER.format("a: Annotated[float, Field(ge=0, description='d')] = -1.0"): "= -1.0: ",
    REGISTER.format("a: Annotated[type, Field(description='d')] = int"): "parameter a of",
    REGISTER.format("a: Annotated[float, Field(description='d')] = 'one'"): "= 'one': ",
    REGISTER.format("beta: Annotated[float, Field(description='d')] = 0.5"): "parameter beta of stage2_term 'x' of "
    "plugin mine.py exists already; remove its Field to read it, or rename it",
    2 * "@registry.register('hsf', 'x')\ndef x(batch):\n    return {}\n": "registers hsf 'x' twice",
    "registry.register('hsf', 'convex', print)": "registers hsf 'convex', which is built in; give it another name",
    "registry.register('descriptor', 'plain', print)": "registers descriptor 'plain', which is built in",
    "registry.register('protocol', 'general', print)": "registers protocol 'general', which is built in",
    "registry.register('benchmark', 'prcc', print)": "registers benchmark 'prcc', which is built in",
    "registry.register('loss', 'x', print)": "registers a 'loss'; the kinds are: stage2_term, mdg, vss",
    "registry.register('vss', 'x', print, token=True)": "vss 'x' has no trait 'token'; its traits: vit, branch, tokens",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_invalid_plugin_is_named_before_training(tmp_path, text):
    with pytest.raises(InputError) as error:
        small(plugin=write(tmp_path, text))
    assert WRONG[text] in str(error.value)


def test_conflicting_and_missing_plugins_are_named(tmp_path):
    text = "@registry.register('stage2_term', 'pull')\ndef other(step):\n    return 0.0\n"
    with pytest.raises(InputError, match=r"'pull' of plugin mine.py is registered twice, also by pull.py; rename one"):
        small(plugin=[PULL, write(tmp_path, text)])
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="two plugins are called pull.py"):
        small(plugin=[PULL, write(tmp_path / "sub", text.replace("'pull'", "'push'"), "pull.py")])
    with pytest.raises(InputError, match="plugin 'gone.py' does not exist .*give the path of its Python file"):
        small(plugin="gone.py")
    with pytest.raises(InputError, match="outside of a plugin; put it into a file"):
        registry.register("hsf", "x", print)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("step.embeddings.f", "returns x as shape (4, 128); return a scalar tensor"),
        ("0.0", "returns x as float; return a scalar tensor"),
        ("{'id_f': step.embeddings.f.sum()}", "returns a term 'id_f', which already exists"),
        ("{'seconds': step.embeddings.f.sum()}", "returns a term 'seconds', which already exists"),
        (
            "step.nothing",
            "stage2_term 'x' of plugin mine.py raised AttributeError: 'Stage2Step' object has",
        ),
    ],
)
def test_invalid_term_is_found_before_stage_1(people, tmp_path, value, words):
    text = f"@registry.register('stage2_term', 'x')\ndef x(step):\n    return {value}\n"
    with pytest.raises(InputError) as error:
        training.fit(small(plugin=write(tmp_path, text)), people, tmp_path / "run")
    assert words in str(error.value) and not (tmp_path / "run").exists()


# ---------------------------------------------------------------- resuming


class Stop(Exception):
    pass


def test_resume_requires_same_plugin(people, pulled, tmp_path, monkeypatch):
    plugin = tmp_path / "pull.py"
    plugin.write_bytes(Path(PULL).read_bytes())
    given, run = dict(hsf="none", pull_weight=0.5), Run(tmp_path / "run")

    def stop(record: dict) -> None:
        raise Stop

    with pytest.raises(Stop):
        training.fit(small(plugin=str(plugin), **given), people, run.dir, report=stop)
    with pytest.raises(InputError, match="holds a run with another pull_weight|begun with another plugin pull.py"):
        training.fit(small(hsf="none"), people, run.dir)
    plugin.write_text(plugin.read_text() + "# a comment\n")
    edited = small(plugin=str(plugin), **given)
    with pytest.raises(InputError, match=r"another plugin pull.py: SHA-256 \w{12}, and now \w{12}; bring it"):
        training.fit(edited, people, run.dir)
    with monkeypatch.context() as patch:  # in the run's own kernel, or on a worker
        patch.setenv("CSGN_RUN_DIR", str(run.dir))
        with pytest.raises(InputError, match="pull.py has changed since the run began: .*restore the original"):
            small(plugin=str(plugin), **given)
        plugin.unlink()
        finished = training.fit(small(plugin=str(plugin), **given), people, run.dir)  # the copy takes its place
    assert finished.path("model.safetensors").read_bytes() == pulled.path("model.safetensors").read_bytes()


def test_patched_loss_is_not_the_runs_plugin(people, tmp_path, monkeypatch):
    training.fit(small(hsf="none"), people, tmp_path)
    terms = run_files.stage2_terms
    monkeypatch.setattr(run_files, "stage2_terms", lambda *given: terms(*given) | {"pull": torch.zeros(())})
    with pytest.raises(InputError, match="the loss terms id_z12, .*triplet_f, and this is .*pull; remove this folder"):
        training.fit(small(hsf="none"), people, tmp_path)


# ---------------------------------------------------------------- sweeps

BODY = """
from dataclasses import replace
from csgn_lib import datasets, runs, training
from csgn_lib.config import Experiment
from csgn_lib.records import write_json
people = datasets.load("synthetic", root)
people = replace(people, train=people.train.groupby(["person", "clothes"]).head(1).reset_index(drop=True))
experiment = Experiment.from_parameters(preset=preset, seed=seed, plugin=plugin, **more)
run = training.fit(experiment, people, runs.current("x").dir)
write_json(run.path("results.json"), {"last": {"pull": run.metrics()[-1]["pull"]}})
"""
PARAMETERS = "preset: str = 'demo'\nroot: str = ''\nseed: int = 0\nplugin: list | str = []\nmore: dict = {}"


@pytest.fixture
def notebook(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return write_notebook(tmp_path / "notebooks" / "12_train.ipynb", BODY, parameters=PARAMETERS)


def test_loss_plugin_runs_in_dask_sweep(notebook, tiny_root, tmp_path, monkeypatch):
    plugin = tmp_path / "my_idea.py"
    plugin.write_bytes(Path(PULL).read_bytes())
    values = small(hsf="none", stage2_epochs=1).difference()
    rows = "".join(
        f"  {name}: {{more: {json.dumps(values | {'pull_weight': weight})}}}\n"
        for name, weight in {"weak": 0.1, "strong": 1.0}.items()
    )
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"every: {{root: {json.dumps(str(tiny_root))}, plugin: {json.dumps(str(plugin))}}}\nrows:\n{rows}")
    away = plugin.with_suffix(".away")
    with executors.dask(workers=1) as pool:
        jobs, submit = [], pool.submit

        def without_the_file(*job: object) -> object:
            """The last cell starts as on another machine: it has the run's folder, and no file of that path."""
            jobs.append(job)
            if len(jobs) == 2:
                plugin.rename(away)
            return submit(*job)

        monkeypatch.setattr(pool, "submit", without_the_file)
        found = runs.sweep(runs.read_grid(grid), pool, threads=1)
    assert found.state.tolist() == ["done", "done"], found.error.tolist()
    assert found.row.tolist() == ["weak", "strong"]
    weak, strong = found["last.pull"]
    assert 0 < weak < strong
    table = pd.DataFrame(runs.table())
    assert {"pull_weight", "last.pull"} <= set(table) and sorted(table.pull_weight) == [0.1, 1.0]
    away.rename(plugin)
    assert (runs.planned(runs.read_grid(grid)).state == "done").all()
    plugin.write_text(plugin.read_text().replace("square()", "abs()"))
    assert (runs.planned(runs.read_grid(grid)).state == "new").all()  # its content is part of the key


def test_missing_plugin_on_worker_is_named(notebook, tmp_path):
    with pytest.raises(InputError, match="plugin 'gone.py' does not exist .*give the path of its Python file"):
        runs.execute(notebook, {"plugin": "gone.py"}, tmp_path / "run")
    values = {"plugin": PULL, "more": {"pull_weight": 0.5}}
    plugin_files.keep_copies(with_plugins(PULL).loaded, tmp_path / "run")
    with plugin_files.copies_in(tmp_path / "run"):
        assert notebooks.checked(notebook, values | {"plugin": "elsewhere/pull.py"})["more"] == {"pull_weight": 0.5}
        same = folders.key(notebook, values | {"plugin": "elsewhere/pull.py"})
    assert same == folders.key(notebook, values) != folders.key(notebook, values | {"plugin": []})
    (found,) = plugins_of(values)
    assert (found.name, found.digest) == ("pull.py", hashlib.sha256(Path(PULL).read_bytes()).hexdigest())
