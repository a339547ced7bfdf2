"""The README's numbers are those of the records that its commands write."""

import re
from pathlib import Path

import pandas as pd
import pytest

from csgn_lib import runs

HOME = Path(__file__).resolve().parents[1]
README = (HOME / "README.md").read_text(encoding="utf-8")


def test_the_tables_are_the_recorded_ones():
    for record in ("first-result/table.txt", "seeds/table.md"):
        assert (HOME / "reports" / record).read_text(encoding="utf-8").strip("\n") in README, record


def test_how_near_the_frozen_clip_comes_is_as_recorded():
    hard = pd.read_csv(HOME / "reports/first-result/results.csv").query("protocol == 'cloth_changing'").set_index("row")
    gap = hard.mean_ap["CSGN, clothing phrases out"] - hard.mean_ap["frozen, clothing phrases out"]
    assert f"within {100 * gap:.1f} points of CSGN's mAP" in README


INTERVAL = r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]"
WHY = README.partition("## Why")[2].partition("## Notebooks")[0]  # what was found inside of three trained rows
PARTS = README.partition("**Part by part")[2].partition("**Other forms")[0]
FORMS = README.partition("**Other forms")[2].partition("**Two small CLIPs")[0]
CLIPS = rf"^\| (.+) \| ({INTERVAL}) \| ({INTERVAL}) \|$"


OVER = {"over plain CLIP-ReID": "over-clip-reid/", "over identity + triplet with": "over-words/"}


def differences(record: str) -> pd.DataFrame:
    found = pd.read_csv(HOME / "reports" / record)
    return found.assign(said=[f"{r.mean:+.1f} [{r.low:+.1f}, {r.high:+.1f}]" for r in found.itertuples()])


def test_every_difference_with_an_interval_is_a_recorded_one():
    recorded = set(differences("seeds/differences-records.csv").said)
    for words in ("clothing out", "person only"):  # CSGN against the frozen CLIP, both given them
        frozen = f"frozen small CLIP, {words}"
        found = runs.load_sweep_records(HOME / "reports/seeds", [frozen], ["plain", words]).differences
        (one,) = found.query(f"label == 'CSGN, {words}' and protocol == 'cloth_changing'").itertuples()
        recorded.add(f"{one.mean:+.1f} [{one.low:+.1f}, {one.high:+.1f}]")
    said = re.findall(
        INTERVAL, re.sub(CLIPS, "", README.replace(WHY, "").replace(PARTS, "").replace(FORMS, ""), flags=re.MULTILINE)
    )
    assert said and set(said) <= recorded, set(said) - recorded


def test_both_small_clips_say_what_is_recorded_of_each():
    rows = re.findall(CLIPS, README.replace(PARTS, "").replace(FORMS, ""), flags=re.MULTILINE)
    assert len(rows) == 8
    for column, name in enumerate(("first", "second"), start=1):
        for row in rows:
            label = row[0].replace("phrases out", "out")
            folder = next((part for word, part in OVER.items() if word in label), "")
            found = differences(f"ablation/clips/{name}/{folder}paired-records.csv")
            protocol = "general" if "under general" in label else "cloth_changing"  # noqa: F841
            recorded = found.query("protocol == @protocol").set_index("row")
            one = recorded.loc["CSGN, clothing out" if label.startswith("the same") else label]
            assert one.said == row[column] and one.holm_people < 0.001 and one.clusters == 3 and one.runs == 9, row


def test_each_part_adds_what_is_recorded():
    found = differences("ablation/main/differences-records.csv").query("descriptor == 'plain'")
    over = found[found.against == "CLIP-ReID"].pivot(index="row", columns="protocol", values="said")
    rows = re.findall(CLIPS, PARTS, flags=re.MULTILINE)
    assert [list(row[1:]) for row in rows] == over.loc[[row[0] for row in rows]].to_numpy().tolist() and len(rows) == 9
    said = re.findall(INTERVAL, re.sub(CLIPS, "", PARTS, flags=re.MULTILINE))
    controls = differences("ablation/controls/differences-records.csv").query("descriptor == 'plain'")
    controls = controls[(controls.against == "CSGN") & (controls.protocol == "cloth_changing")]
    hard = set(found.query("protocol == 'cloth_changing'").said) | set(controls.said)
    assert len(said) == 7 and set(said) <= hard and set(controls.said) <= set(said)


def test_each_form_differs_as_recorded():
    folders = {"": "", ", clothing out": "over-words/"}
    found = {
        words: differences(f"ablation/variants/{folder}paired-records.csv")
        .query("protocol == 'cloth_changing'")
        .set_index("row")
        for words, folder in folders.items()
    }
    rows = re.findall(CLIPS, FORMS, flags=re.MULTILINE)
    assert len(rows) == 18 and not re.findall(INTERVAL, re.sub(CLIPS, "", FORMS, flags=re.MULTILINE))
    for label, *said in rows:
        assert said == [frame.said[label + words] for words, frame in found.items()], label
    maps = "plain.protocols.cloth_changing.mean_ap"
    variants, parts = (
        pd.read_csv(HOME / f"reports/ablation/{name}/runs-records.csv")
        .query("world < 3")
        .pivot(index="world", columns="row", values=maps)
        for name in ("variants", "main")
    )
    assert (variants["CSGN"] == parts["CSGN"]).all()  # the same runs, trained twice
    none = parts["+MDG +HSF"].mean()
    gains = variants[["CSGN", "ResNet from scratch", "two ViTs"]].mean() - none
    out = maps.replace("plain", "clothing out")
    tables = {name: pd.read_csv(HOME / f"reports/ablation/{name}/runs-records.csv") for name in ("variants", "main")}
    means = {name: frame.query("world < 3").groupby("row")[out].mean() for name, frame in tables.items()}
    assert means["variants"]["two ViTs"] < means["main"]["+MDG +HSF"]
    assert gains["ResNet from scratch"] < 0 and gains["two ViTs"] / gains["CSGN"] == pytest.approx(1 / 3, abs=0.05)
    for row, sign in {"beta 0": -1, "MDG separate": 1, "MDG, same template": -1}.items():
        assert (sign * (variants[row] - variants["CSGN"]) > 0).all(), row
    without = found[", clothing out"]
    assert len(without) == 29 - 1 and without["mean"].max() < 1  # a lone ResNet has no words to take out


def test_what_was_found_inside_is_what_the_notebooks_answered():
    answers = (HOME / "reports/inside/answers.md").read_text(encoding="utf-8")
    frozen = (HOME / "notebooks/31_clothes_leakage.ipynb").read_text(encoding="utf-8")
    said = re.findall(r"[+-]?\d+\.\d+ \[[^\]]+\]", " ".join(WHY.split()))
    assert len(said) == 8
    for interval in said:
        assert interval in answers or (interval in frozen and interval == "0.68 [0.66, 0.70]"), interval
    csgn = re.search(r"CSGN, descriptor \[z12; f; c\]: .*?, (\d+%) of wrong .*? outfit \(chance (\d+%)\)\. A", answers)
    alone = re.search(r"CSGN, f, person only: 0 of 3 .*?, (\d+%) of wrong", answers)
    shares = re.findall(r"Learned descriptions, (?:RGB|gray): (\d+%) in the (?:clothing|person) words", answers)
    told = WHY.replace(" %", "%")
    assert [csgn[1], csgn[2], alone[1]] == re.findall(r"\d+%", told.partition("Whoever")[2])[:3]
    assert [shares[0], shares[2]] == ["11%", "11%"] and f"hold {shares[1]} and {shares[3]}" in told


def test_every_path_and_notebook_that_the_readme_names_exists():
    names = [word.strip("`") for line in README.splitlines() if line.startswith("| `") for word in line.split()[1:2]]
    assert len(names) >= 9
    for name in names:
        assert (HOME / "notebooks" / f"{name}.ipynb").exists(), name
    for target in re.findall(r'\]\((.+?)\)|src="(.+?)"', README):
        target = "".join(target)
        if not target.startswith("http"):
            assert (HOME / target).exists(), target


def test_the_speeds_it_names_are_the_recorded_ones():
    found = pd.read_csv(HOME / "reports/training/bench.csv").set_index("what")["value"]
    stage2 = "stage 2, batch 16, ViT-B/16, "
    said = f"{found[stage2 + 'fp32: a step of ours']:.1f} s on 2 cores ({found[stage2 + 'bf16: a step of ours']:.1f} s"
    ratio = found[stage2 + "bf16: CLIP-ReID's time over ours"]
    assert said in README and f"{ratio:.1f} times as fast as CLIP-ReID's own code" in README
    gpu = pd.read_csv(HOME / "reports/training/gpu/bench.csv").set_index("what")["value"]
    flat, step = README.replace("\n", " "), "stage 2, batch 64, ViT-B/16 + ResNet-50, bf16: "
    run = "a run of PRCC's size, 17,896 images, bf16, compiled before: "
    faster, share = "CLIP-ReID's time over ours", "share of the card's rate of matrix products"
    for words in (
        f"comes to {gpu[run + '120 + 60 epochs, from these']:.1f} minutes",
        f"{gpu[run + 'images a second of stage 2']:,.0f} images a second in stage 2",
        f"{gpu[run + 'share of stage 2 that waits for images']:.1f} % of it spent waiting",
        f"takes {gpu[step + 'compiling its blocks']:.0f} seconds once",
        f"{gpu[step + faster]:.1f} times as fast as CLIP-ReID's own code",
        f"{gpu['stage 1, batch 64, RGB and gray prompts, bf16: ' + faster]:.1f} times in stage 1",
        f"alone would take {gpu[step + share]:.0f} % of the step",
    ):
        assert words in flat, words
    floors = gpu[[name for name in gpu.index if name.startswith(step + "memory traffic alone")]].item()
    assert f"memory {100 * floors / gpu[step + 'a compiled step of ours']:.0f} %" in flat
    assert round(gpu[step + "started kernel by kernel, over recorded"]) == 2
    prompts = found["stage 1, batch 64 of as many people, RGB and gray prompts, bf16: CLIP-ReID's time over ours"]
    assert f"stage 1 is {prompts:.0f} times as fast" in flat
