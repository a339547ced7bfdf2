"""Two processes that share each batch give the results of one process: losses, gradients, statistics, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from csgn_lib.records import InputError, Run
from csgn_lib.training.distributed import BatchShard, use_shared_batch_norm

TINY = dict(
    clip_checkpoint="none", resnet_checkpoint="none", image_height=48, image_width=24, precision="fp32",
    stage1_epochs=1, stage1_batch=32, stage1_warmup=0, stage2_epochs=1, stage2_warmup=1, stage2_milestones="[7]",
    batch_persons=4, batch_images=2, clothes_adversarial_weight=0.1, gray_probability=0.5, erasing=0.5,
)  # fmt: skip

GRADIENTS = """
import copy, json, sys
import torch
from accelerate import Accelerator
torch.set_num_threads(1)
from csgn_lib import datasets, mdg, training
from csgn_lib.batches import Augmentation, open_images, random_stream
from csgn_lib.config import Experiment
from csgn_lib.training import stage2
from csgn_lib.training.distributed import BatchShard
from csgn_lib.training.steps import Stage2Targets

accelerator = Accelerator(cpu=True, mixed_precision="no")
experiment = Experiment.from_parameters(**json.loads(sys.argv[1]))
data = datasets.load("synthetic", sys.argv[2])
torch.manual_seed(0)
images = open_images(data.train, data.root, (experiment.image_height, experiment.image_width))
clip, resnet = training.load_towers(experiment)
people = int(images.person.max()) + 1
text = mdg.TextFeatures(*(torch.randn(people, clip.embed_dim) for _ in range(2)))
targets = Stage2Targets(text=text)
alone = training.build_learner(experiment, clip, resnet, people, targets).train()
shared = copy.deepcopy(alone)
for learner in (alone, shared):
    if experiment.vss == "steer":
        learner.encoder.join.gamma.data.fill_(0.5)  # else the joining layer has no gradient yet
rows = stage2.identity_sampler(experiment, data.train).epoch(1)[0]
augment, size = Augmentation.from_experiment(experiment), (experiment.image_height, experiment.image_width)
shard = BatchShard(accelerator, experiment.batch_persons)
losses = {}
for name, learner, part in (("alone", alone, slice(None)), ("shared", shared, shard.rows(len(rows)))):
    learner.gather = shard.gather if name == "shared" else learner.gather
    model = shard.wrap_ddp(learner) if name == "shared" else learner
    batch = images.batch(rows, part)
    drawn = augment.draw(len(rows), size, random_stream(0, 1)).rows(part)
    embeddings, outputs = model(augment.apply(batch.images, drawn))
    terms = stage2.stage2_terms(experiment, embeddings, outputs, batch, targets)
    sum(terms.values()).backward()
    losses[name] = {key: float(value.detach()) for key, value in terms.items()}
pairs = list(zip(alone.named_parameters(), shared.parameters()))
worst = {n: float((a.grad - b.grad).norm() / (a.grad.norm() + 1e-6)) for (n, a), b in pairs if a.grad is not None}
kept = {n: float((a - shared.state_dict()[n]).abs().max()) for n, a in alone.state_dict().items() if "running" in n}
if accelerator.is_main_process:
    images_each = len(batch.images)
    print(json.dumps({"losses": losses, "gradients": worst, "running": kept, "images": images_each}))
"""


def launched(count: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    own = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(count),
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | own | environment)
    assert done.returncode == 0, done.stderr[:4000]
    return done


def as_parameters(**changes: object) -> dict:
    from csgn_lib.config import Experiment

    values = {name: None if value == "none" else value for name, value in TINY.items()} | {"stage2_milestones": [7]}
    return Experiment.from_parameters(**(values | changes)).model_dump(mode="json")


@pytest.mark.parametrize("changes", [{}, {"vss": "none", "batch_parts": 2}], ids=["steer", "in parts"])
def test_gradients_equal_one_process(tiny_root, tmp_path, changes):
    """Batch-hard triplet, text, identity and batch norms, of two processes with two people each."""
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    done = launched(2, str(script), json.dumps(as_parameters(**changes)), str(tiny_root))
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["images"] == 4
    assert told["losses"]["shared"] == pytest.approx(told["losses"]["alone"], rel=2e-5, abs=1e-6)
    assert {"triplet_f", "text_rgb", "id_f"} <= set(told["losses"]["alone"])
    assert len(told["gradients"]) > 50 and (changes or len(told["running"]) > 10)
    worst = max(told["gradients"], key=told["gradients"].get)
    assert told["gradients"][worst] < 1e-3, (worst, told["gradients"][worst])
    assert max(told["running"].values()) < 1e-5


def test_distributed_run_equals_one_process(tiny_root, tmp_path):
    given = [f"--set={name}={value}" for name, value in TINY.items()]
    given += ["--set=root=" + str(tiny_root), "--set=benchmark=synthetic"]
    for count in (1, 2):
        home = str(tmp_path / f"home{count}")
        launched(count, "-m", "csgn_lib", "train", *given, "--run-dir", str(tmp_path / str(count)), CSGN_HOME=home)
    one, two = Run(tmp_path / "1"), Run(tmp_path / "2")
    assert one.status["state"] == two.status["state"] == "done"
    assert [len(run.metrics()) for run in (one, two)] == [2, 2]
    for before, after in zip(one.metrics(), two.metrics(), strict=True):
        for times in ("seconds", "images_per_second", "waiting"):
            before.pop(times, None), after.pop(times, None)
        assert after == pytest.approx(before, rel=1e-3)
    texts = [load_file(run.path("text.safetensors")) for run in (one, two)]
    torch.testing.assert_close(texts[1], texts[0], rtol=1e-4, atol=1e-5)
    models = [load_file(run.path("model.safetensors")) for run in (one, two)]
    assert models[0].keys() == models[1].keys()
    moved = max(
        float((models[0][n].float() - models[1][n].float()).abs().max()) for n in models[0] if "running" not in n
    )
    assert moved < 2e-2  # Adam turns the rounding of a gradient near zero into a step of a whole rate
    assert sorted(path.name for path in one.dir.iterdir()) == sorted(path.name for path in two.dir.iterdir())


def test_indivisible_batch_is_refused():
    three = SimpleNamespace(process_index=0, num_processes=3, device=torch.device("cpu"))
    with pytest.raises(InputError, match="batch_persons=16 cannot be split over 3 processes"):
        BatchShard(three, 16)
    second = BatchShard(SimpleNamespace(process_index=1, num_processes=2, device=torch.device("cpu")), 4)
    assert second.rows(8) == slice(4, 8)


def test_unsupported_batch_norms_are_refused():
    class Louder(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match="Louder in this ResNet cannot be synchronised"):
        use_shared_batch_norm(nn.Sequential(Louder(3)))
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = module.state_dict()
    use_shared_batch_norm(module)
    assert type(module[1]).__name__ == "SyncBatchNorm2d" and module.state_dict().keys() == before.keys()
