"""The explorer against plain implementations, its panel through widget values, and its error messages."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import trees
from matplotlib.colors import to_rgba
from PIL import Image
from safetensors.torch import save_file

from csgn_lib import datasets, panels, retrieval, vocabulary
from csgn_lib.panels import Filter, Look, Source, looks, sources, strips, thumbnails
from csgn_lib.panels import explorer as explorer_module
from csgn_lib.panels.controls import NOBODY
from csgn_lib.panels.maps import MARKS
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.vss import VisualEncoder

SIZE, RULE = (96, 48), "cloth_changing"
PLUGINS = Path(__file__).parent / "plugins"
RED = "a photo of a person wearing a red shirt"


@pytest.fixture(scope="module")
def source(random_clip, tiny_benchmark) -> Source:
    encoder = VisualEncoder(random_clip, None, "none", torch.Generator()).eval()
    found = retrieval.embed_benchmark(encoder, tiny_benchmark, SIZE)
    chosen = {
        "plain": retrieval.Descriptor(("z12", "f")),
        "clothing removed": retrieval.Descriptor(("f",), "clothing removed", 8),
        "person only": retrieval.Descriptor(("f",), "person only", 4),
    }
    return Source(
        "first", tiny_benchmark, SIZE, found.query, found.gallery, chosen, lambda: encoder, lambda: random_clip
    )


@pytest.fixture(scope="module")
def second(source) -> Source:
    """A model that answers otherwise: features of a fixed random rotation, without z12."""
    return replace(source, name="second", descriptors={"plain": retrieval.Descriptor(("f",))})


@pytest.fixture
def explorer(source, second):
    return panels.Explorer({"first": source, "second": second})


def _naive(source, row, asked, ranked):
    """Every gallery image by its cosine, one at a time; who is dropped, read off the protocol's definition."""
    query, gallery = source.benchmark.query.iloc[row], source.benchmark.gallery
    kept = []
    for i, image in enumerate(gallery.itertuples()):
        mine = image.person == query.person
        if not (mine and (image.camera == query.camera or image.clothes == query.clothes)):
            kept.append((float(F.cosine_similarity(asked, ranked[i], dim=0)), i))
    kept.sort(key=lambda pair: -pair[0])
    hits = [n for n, (_, i) in enumerate(kept, start=1) if gallery.person.iloc[i] == query.person]
    ap = sum(h / rank for h, rank in enumerate(hits, start=1)) / len(hits)
    return [i for _, i in kept], [cosine for cosine, _ in kept], ap, hits[0]


def _check(answer, naive):
    rows, cosines, ap, first = naive
    assert answer.rows.tolist() == rows
    np.testing.assert_allclose(answer.similarity, cosines, atol=1e-5)
    assert answer.ap == pytest.approx(ap) and answer.first_hit == first


def test_ranks_equal_loop_and_library(explorer, source):
    plain = retrieval.features_of(source.descriptors["plain"])
    asked, ranked = plain(source.query), plain(source.gallery)
    frames = source.benchmark.query, source.benchmark.gallery
    library = retrieval.Rankings(asked, ranked, *frames, RULE)
    for row in (0, 7):
        answer = explorer.ranks("first", RULE, row)
        _check(answer, _naive(source, row, asked[row], ranked))
        np.testing.assert_array_equal(answer.rows, library.of(row))


def test_text_subspace_changes_both_sides_text_only_query(explorer, source):
    words, row = source.words, 3
    basis = vocabulary.subspace(words.features["clothing removed"], 5)
    f, g = source.query.f[row], source.gallery.f
    out = [vocabulary.remove(x, basis) for x in (f[None], g)]
    answer = explorer.ranks("first", RULE, row, Look("clothing removed", 5))
    _check(answer, _naive(source, row, out[0][0], out[1]))
    said, neutral = (F.normalize(source.clip.text_features([t])[0], dim=0) for t in (RED, "a photo of a person"))
    direction = (said - neutral) / (said - neutral).norm()
    for use, sign in (("added", 1), ("subtracted", -1)):
        moved = torch.cat([F.normalize(source.query.z12[row], dim=0),
                           F.normalize(F.normalize(f, dim=0) + sign * 0.7 * direction, dim=0)])  # fmt: skip
        ranked = retrieval.features_of(source.descriptors["plain"])(source.gallery)
        answer = explorer.ranks("first", RULE, row, Look(text=RED, use=use, weight=0.7))
        _check(answer, _naive(source, row, moved, ranked))
    alone = explorer.ranks("first", RULE, row, Look(text=RED, use="alone"))
    cosines = F.cosine_similarity(said[None], g, dim=1).numpy()
    np.testing.assert_array_equal(alone.rows, np.argsort(-cosines, kind="stable"))  # the whole gallery, no junk
    np.testing.assert_allclose(alone.similarity, np.sort(cosines)[::-1], atol=1e-5)
    assert np.isnan(alone.ap) and alone.first_hit == 0 and not alone.top(20).right.any()


@pytest.mark.parametrize("kind", ["clothing removed", "person only"])
@pytest.mark.parametrize("parts", [("f",), ("z12", "f")])
def test_gallery_features_are_cached_for_all_ranks(source, kind, parts, monkeypatch):
    chosen = source.descriptors | {kind: retrieval.Descriptor(parts, kind, 4)}
    explorer = panels.Explorer({"first": replace(source, descriptors=chosen)})
    for rank in (3, 5, 9, 16):  # kept along one direction, all cosines are 1 or -1
        read = retrieval.features_of(replace(chosen[kind], rank=rank), source.words)
        answer = explorer.ranks("first", RULE, 3, Look(kind, rank))
        _check(answer, _naive(source, 3, read(source.query)[3], read(source.gallery)))
    assert [descriptor.vocabulary for _, descriptor, _ in explorer._galleries] == ["plain"]
    monkeypatch.setitem(explorer_module.LEAST, kind, 1.0)  # too little is left: the features themselves are compared
    direct = panels.Explorer({"first": replace(source, descriptors=chosen)}).ranks("first", RULE, 3, Look(kind, 16))
    np.testing.assert_array_equal(direct.rows, answer.rows)


def test_changed_query_is_embedded_from_pixels(explorer, source):
    row = 2
    with Image.open(source.benchmark.root / source.benchmark.query.path.iloc[row]) as file:
        pixels = np.asarray(file.convert("RGB")).astype(np.float32) / 255
    gray = np.repeat((pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None], 3, axis=2)
    for look, image in ((Look(picture="gray"), gray), (Look(picture="mirrored"), pixels[:, ::-1].copy())):
        with torch.inference_mode():
            embedded = source.encoder(torch.from_numpy(image).permute(2, 0, 1)[None])
        plain = retrieval.features_of(source.descriptors["plain"])
        answer = explorer.ranks("first", RULE, row, look)
        _check(answer, _naive(source, row, plain(embedded)[0], plain(source.gallery)))
    turned = explorer.ranks("first", RULE, row, Look(hue=120))
    assert np.abs(turned.similarity[:20] - explorer.ranks("first", RULE, row).similarity[:20]).max() > 1e-4


def test_filters_equal_loop(explorer):
    everything = explorer.queries("first", RULE)
    assert everything.ap.is_monotonic_increasing and everything.valid.all()
    camera, low, high = int(everything.camera.iloc[0]), 0.05, 0.6
    names = {column: explorer.source("first").benchmark.names(column) for column in ("camera", "clothes")}
    for first in ("right", "wrong"):
        found = explorer.queries("first", RULE, Filter(camera=names["camera"][camera], first=first, ap=(low, high)))
        wanted = [
            q.row for q in everything.itertuples()
            if q.camera == camera and low <= q.ap <= high and (q.first_hit == 1) == (first == "right")
        ]  # fmt: skip
        assert found.row.tolist() == wanted
    clothes = int(everything.clothes.iloc[0])
    assert set(explorer.queries("first", RULE, Filter(clothes=names["clothes"][clothes])).clothes) == {clothes}


def test_queries_are_found_by_name_and_ordered(explorer):
    everything = explorer.queries("first", RULE)
    part = everything.path.iloc[5][-9:].upper()
    found = explorer.queries("first", RULE, Filter(contains=part)).path
    assert set(found) == {path for path in everything.path if part.lower() in path.lower()} and len(found)
    ap = {order: explorer.queries("first", RULE, Filter(order=order)).ap.to_numpy() for order in looks.ORDERS}
    assert (np.diff(ap[looks.HARDEST]) >= 0).all() and (np.diff(ap[looks.EASIEST]) <= 0).all()
    typical = explorer.queries("first", RULE, Filter(order=looks.TYPICAL))
    easy, hard = (part for _, part in typical.groupby(typical.first_hit > 10))
    assert typical.first_hit.tolist() == [*easy.first_hit, *hard.first_hit], "without a match in ten, last"
    assert all((np.diff((part.ap - easy.ap.median()).abs()) >= 0).all() for part in (easy, hard))
    assert explorer.queries("first", RULE, Filter(order=looks.BY_NAME)).path.is_monotonic_increasing


def test_gallery_image_as_query_excludes_itself(explorer, source):
    gallery = source.benchmark.gallery
    with Image.open(source.benchmark.root / gallery.path.iloc[5]) as file:
        answer = explorer.search("first", file.convert("RGB"), row=5)
    assert 5 not in answer.rows and len(answer.rows) == len(gallery) - 1 and np.isnan(answer.ap)
    top = answer.top(len(gallery))
    np.testing.assert_array_equal(top.right, top.person == gallery.person.iloc[5])
    data = replace(source.benchmark, name="market1501", gallery=gallery.assign(person=0))
    nobody = panels.Explorer({"x": replace(source, benchmark=data)}).search("x", Image.new("RGB", (48, 96)), row=5)
    assert nobody.query.person == -1, "a distractor of Market-1501 has no person"


def test_ranking_shows_previous_ranks(explorer):
    before, after = explorer.ranks("first", RULE, 0), explorer.ranks("first", RULE, 0, Look("clothing removed", 8))
    for row in after.top(10, before).itertuples():
        assert before.rows[row.was - 1] == row.row
        assert row.changed == ("changed" if row.right else "")  # cloth-changing leaves no match in the same clothes


def test_uploaded_image_finds_itself(explorer, source):
    gallery = source.benchmark.gallery
    with Image.open(source.benchmark.root / gallery.path.iloc[5]) as file:
        answer = explorer.search("first", file.convert("RGB"))
    assert answer.rows[0] == 5 and len(answer.rows) == len(gallery) and np.isnan(answer.ap)
    assert not answer.top(10).right.any()


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"no picture", "mine.png cannot be read as an image"), (b"", "cannot be read"), ("large", "100 megapixels")],
)
def test_invalid_upload_is_refused_before_decoding(content, word, monkeypatch):
    if content == "large":
        content = _png(10_000, 10_000)
        monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=word):
        panels.decode_upload(content, "mine.png")


def test_truncated_upload_is_refused(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 32, 3), np.uint8)).save(file, "JPEG")
    assert panels.decode_upload(file.getvalue()).size == (32, 64)
    with pytest.raises(InputError, match="cut.jpg cannot be read as an image"):
        panels.decode_upload(file.getvalue()[:600], "cut.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_upload_with_damaged_exif_is_read_or_refused():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "make"  # to be turned, so that its EXIF is written again
    Image.new("RGB", (16, 24)).save(file, "JPEG", exif=exif)
    content = bytearray(file.getvalue())
    for place in range(content.index(b"Exif"), content.index(b"make")):
        for value in (0, 5, 7, 255):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            with contextlib.suppress(InputError):
                assert sorted(panels.decode_upload(bytes(damaged)).size) == [16, 24]


def _png(width: int, height: int) -> bytes:
    """A PNG's header of that size, with hardly any pixels behind it."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    content = bytearray(file.getvalue())
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">II", width, height) + bytes(content[24:29])
    content[12:33] = header + struct.pack(">I", zlib.crc32(header))
    return bytes(content)


def test_thumbnails_are_cached_and_oldest_is_dropped(source, monkeypatch):
    made = []
    small = thumbnails.Thumbnails(source.benchmark.root, kept=2)
    monkeypatch.setattr(thumbnails, "jpeg", lambda image, height: made.append(image) or b"x")
    paths = source.benchmark.gallery.path.tolist()
    for path in (paths[0], paths[0], paths[1], paths[2], paths[0]):
        small.jpeg(path)
    assert len(made) == 4
    with pytest.raises(InputError, match=r"nothing\.png"):
        small.jpeg("nothing.png")


def test_faces_are_pixelated_for_display_only(source, monkeypatch):
    data = replace(source.benchmark, name="deepchange")
    assert data.hide_faces and not source.benchmark.hide_faces
    seen = []
    monkeypatch.setattr(
        explorer_module, "rollout", lambda encoder, images: seen.append(images) or torch.zeros(len(images), *SIZE)
    )
    explorer = panels.Explorer({"open": source, "hidden": replace(source, benchmark=data, name="hidden")})
    path = data.gallery.path.iloc[0]
    blocked, whole = (explorer.thumbnails(name) for name in ("hidden", "open"))
    face = np.asarray(blocked.image(path))[: SIZE[0] // 4]
    assert len(np.unique(face.reshape(-1, 3), axis=0)) <= 4 * 8 < len(np.unique(np.asarray(whole.image(path))[:24]))
    assert blocked.jpeg(path) == thumbnails.jpeg(blocked.image(path)) != whole.jpeg(path)
    linked = panels.linked_maps({"one": np.zeros((len(data.gallery), 2))}, data.gallery, blocked)
    linked.show([0])
    assert thumbnails.data_url(blocked.jpeg(path)) in linked.strip.value
    panel = panels.panel(explorer, top=3)
    panel.order.value = "hardest first"  # the first three answers are the same under both benchmarks' protocols
    panel.query.value = panel.query.options[0][1]
    panel.attention.value = True
    panel.model.value = "hidden"
    torch.testing.assert_close(seen[1], seen[0])  # the same query and answers, as the model gets them
    query = panel.explorer.ranks("hidden", RULE, panel.query.value[0]).query
    shown = thumbnails.overlaid(blocked.image(query.path), np.zeros(SIZE), 0.0)
    assert thumbnails.data_url(thumbnails.jpeg(shown, strips.LARGE)) in panel.strip.value
    panel.attention.value = False
    panel._clicked(panel.strip, "query")
    assert thumbnails.data_url(thumbnails.jpeg(blocked.image(query.path), strips.ENLARGED)) in panel.enlarged.value


def _run(folder, source, **files) -> Run:
    run = Run(folder)
    parts = {f"{split}.{n}": v.contiguous() for split in ("query", "gallery")
             for n, v in getattr(source, split).parts().items()}  # fmt: skip
    folder.mkdir()
    config = {"preset": "demo", "vss": "none", "hsf": "none", "root": str(source.benchmark.root)}
    write_json(run.path("config.json"), config)
    save_file(parts, run.path("embeddings.safetensors"))
    write_json(run.path("benchmark.json"), source.benchmark.record())
    compared = {"parts": ["f"], "vocabulary": "clothing removed", "rank": 12}
    write_json(run.path("results.json"), {"clothing removed": {"compared": compared}})
    for name, content in files.items():
        path = run.path(name.replace("__", "."))
        path.unlink() if content is None else path.write_bytes(content)
    return run


def test_scored_run_is_opened_with_its_descriptors(tmp_path, source):
    found = panels.open_source(_run(tmp_path / "run", source).dir)
    torch.testing.assert_close(found.gallery.f, source.gallery.f)
    assert found.descriptors["clothing removed"].rank == 12 and found.note == ""
    with pytest.raises(InputError, match=r"model\.safetensors"):
        _ = found.encoder  # weights are asked for only here


def test_a_plugins_descriptor_is_one_to_choose(tmp_path, source):
    compared = {"parts": [], "vocabulary": "f alone", "rank": 0}
    run = _run(tmp_path / "run", source, results__json=json.dumps({"f alone": {"compared": compared}}).encode())
    write_json(run.path("config.json"), run.config | {"plugin": str(PLUGINS / "forms.py")})
    explorer = panels.Explorer({"run": run.dir})
    answer = explorer.ranks("run", RULE, 3, Look("f alone"))
    _check(answer, _naive(source, 3, source.query.f[3], source.gallery.f))
    with pytest.raises(InputError, match=r"not with \[f alone\]; choose another descriptor"):
        explorer.search("run", None, Look("f alone", text=RED, use="alone"))
    panel = panels.panel(explorer, top=6, folder=tmp_path)
    panel.vocabulary.value = "f alone"
    assert panel.rank.disabled and panel.look() == Look("f alone") and "Answered" in panel.says.value


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"embeddings__safetensors": None}, "unfinished or not scored"),
        ({"embeddings__safetensors": b"half"}, "damaged"),
        ({"config__json": None}, "config.json"),
        ({"benchmark__json": b'{"manifest": "another"}'}, "other data"),
    ],
)
def test_unopenable_run_reports_reason(tmp_path, source, files, word):
    with pytest.raises(InputError, match=word):
        panels.open_source(_run(tmp_path / "run", source, **files).dir)


def test_a_run_is_opened_on_another_benchmark_by_embedding_it(tmp_path, source, monkeypatch):
    run = _run(tmp_path / "run", source)
    monkeypatch.setattr(sources, "load_encoder", lambda run: source.encoder)
    few = replace(source.benchmark, gallery=source.benchmark.gallery[:5].reset_index(drop=True))
    found = panels.open_source(run.dir, few)
    torch.testing.assert_close(found.gallery.f, source.gallery.f[:5], atol=1e-5, rtol=1e-4)
    assert found.benchmark is few and found.descriptors["clothing removed"].rank == 12


def test_run_of_older_version_is_opened_with_note(tmp_path, source):
    found = panels.open_source(_run(tmp_path / "run", source, results__json=b'{"plain": {}}').dir)
    assert "does not describe the descriptors" in found.note and "clothing removed" in found.descriptors


def test_missing_benchmark_is_named(tmp_path, source):
    run = _run(tmp_path / "run", source)
    write_json(run.path("config.json"), run.config | {"root": str(tmp_path / "gone")})
    with pytest.raises(InputError, match="gone"):
        panels.open_source(run.dir)


def test_saved_figures_contain_shown_images(tmp_path, explorer):
    looks = [("first", Look(picture="gray")), ("second", Look())]
    path = explorer.save(RULE, 0, looks, str(tmp_path / "shown"), top=3)
    table = pd.read_csv(f"{path}.csv")
    for i, (name, look) in enumerate(looks):
        rows = table.iloc[4 * i : 4 * i + 4]
        expected = explorer.ranks(name, RULE, 0, look).top(3).path.tolist()
        assert rows.path.tolist()[1:] == expected and (rows.model == name).all()
    assert not table.path.str.startswith("/").any()
    assert "no interval" in json.loads((tmp_path / "shown.json").read_text())["caption"]


class TestPanel:
    @pytest.fixture
    def panel(self, source, second, tmp_path):
        half = _run(tmp_path / "half", source, embeddings__safetensors=None)
        models = panels.Explorer({"first": source, "second": second, "half": half.dir})
        return panels.panel(models, top=6, folder=tmp_path / "figures")

    @staticmethod
    def _alts(strip: str) -> list[str]:
        return re.findall(r'alt="([^"]+)"', strip)

    def test_strip_shows_ranking(self, panel):
        row, draw = panel.query.value
        answer = panel.explorer.ranks("first", RULE, row, draw=draw)
        assert self._alts(panel.strip.value) == [answer.query.path, *answer.top(6).path]
        assert panel.strip.value.count("data:image/jpeg;base64,") == 7
        assert panel.strip.value.count("dashed") == 6 - answer.top(6).right.sum()

    def test_first_query_is_typical(self, panel):
        scored = panel.explorer.scored("first", RULE).set_index("row")
        ap, easy = scored.ap, scored.ap[scored.first_hit <= 10]
        assert abs(ap[panel.query.value[0]] - easy.median()) == pytest.approx((easy - easy.median()).abs().min())
        panel.order.value = "hardest first"
        assert panel.query.options[0][1][0] == ap.idxmin()

    def test_list_filter_and_reset(self, panel):
        first, everything = panel.strip.value, panel.query.options
        wanted = everything[7][0].split()[0]
        panel.search.value = wanted[3:-4]
        assert [text.split()[0] for text, _ in panel.query.options] == [wanted]
        panel.vocabulary.value, panel.hue.value, panel.text.value, panel.use.value = (
            "clothing removed",
            90,
            RED,
            "added",
        )
        assert panel.strip.value != first
        panel.reset.click()
        assert (panel.search.value, panel.hue.value, panel.use.value) == ("", 0, "not used")
        assert panel.look() == Look() and panel.query.options == everything and panel.strip.value == first

    def test_unused_text_is_reported(self, panel):
        panel.text.value = RED
        assert "not in use" in panel.text_note.value and panel.weight.disabled
        panel.use.value = "added"
        assert panel.text_note.value == "" and not panel.weight.disabled and "✓" in panel.strip.value + "✓"
        panel.use.value = "alone"
        assert "without right or wrong" in panel.text_note.value and panel.paint.disabled
        assert not any(mark in panel.strip.value for mark in ("✓", "✗", "dashed", "AP ", "query/"))
        assert panel.strip.value.count("<img") == 6, "no query image"
        panel.text.value = ""
        assert "Type a text" in panel.text_note.value

    def test_click_enlarges_image_and_searches_with_it(self, panel, source):
        row, draw = panel.query.value
        answer = panel.explorer.ranks("first", RULE, row, draw=draw)
        chosen = int(answer.rows[2])
        path = source.benchmark.gallery.path.iloc[chosen]
        panel._clicked(panel.strip, str(chosen))
        assert self._alts(panel.enlarged.value) == [answer.query.path, path] and "380px" in panel.enlarged.value
        panel._clicked(panel.enlarged, "search")
        assert self._alts(panel.strip.value)[0] == path and path not in self._alts(panel.strip.value)[1:]
        assert panel.enlarged.value == "" and not panel.back.disabled
        panel.save.click()
        assert "only a query of the benchmark can be saved" in panel.says.value
        panel.back.click()
        assert self._alts(panel.strip.value)[0] == answer.query.path and panel.back.disabled
        panel._clicked(panel.strip, "query")
        assert self._alts(panel.enlarged.value) == [answer.query.path] and "Search with" not in panel.enlarged.value
        panel._clicked(panel.enlarged, "close")
        assert panel.enlarged.value == ""
        panel._clicked(panel.strip, "100000")
        assert "no longer in the ranking" in panel.says.value

    def test_unavailable_choices_are_hidden(self, panel, source):
        assert (panel.camera.layout.display, panel.clothes.layout.display) == (None, None)
        bare = {side: getattr(source.benchmark, side).assign(clothes=-1, camera=-1) for side in ("query", "gallery")}
        data = replace(source.benchmark, name="celebreid", **bare)
        panel = panels.panel(panels.Explorer({"first": replace(source, benchmark=data)}), top=3)
        assert (panel.camera.layout.display, panel.clothes.layout.display) == ("none", "none")
        assert "outfit" not in "".join(text for text, _ in panel.query.options) and "<img" in panel.strip.value

    def test_phrases_are_encoded_before_first_choice(self, source):
        fresh = replace(source)
        panel = panels.panel(panels.Explorer({"first": fresh}), top=3)
        assert "words" in vars(fresh) and fresh.words._bases.keys() == {"clothing removed", "person only"}

        def missing():
            raise InputError("the weights could not be downloaded")

        panel = panels.panel(panels.Explorer({"first": replace(source, make_clip=missing)}), top=3)
        assert "<img" in panel.strip.value and "alert" not in panel.says.value
        panel.vocabulary.value = "clothing removed"
        assert "could not be downloaded" in panel.says.value

    def test_every_control_changes_strip(self, panel):
        seen = [panel.strip.value]
        for change in (
            {"vocabulary": "clothing removed"}, {"rank": 20}, {"paint": "gray"}, {"hue": 90},
            {"text": RED, "use": "added"},
            {"weight": 2.0}, {"use": "subtracted"}, {"use": "alone"}, {"model": "second", "vocabulary": "plain"},
        ):  # fmt: skip
            for name, value in change.items():
                getattr(panel, name).value = value
            assert panel.strip.value not in seen, f"{change}: {panel.says.value}"
            assert "alert" not in panel.says.value
            seen.append(panel.strip.value)

    def test_click_on_query_and_filter(self, panel):
        before = panel.strip.value
        panel.query.value = panel.query.options[3][1]
        assert panel.strip.value != before
        panel.camera.value = panel.camera.options[1][1]
        wanted = panel.explorer.queries("first", RULE, panel.filter()).row.tolist()
        cameras = panel.explorer.scored("first", RULE).set_index("row").camera
        labels = panel.explorer.source("first").benchmark.names("camera")
        assert {labels[camera] for camera in cameras[wanted]} == {panel.camera.value}
        assert [value[0] for _, value in panel.query.options] == wanted

    def test_two_models_are_stacked(self, panel):
        panel.other.value = "second"
        row, _ = panel.query.value
        assert self._alts(panel.other_strip.value)[1:] == panel.explorer.ranks("second", RULE, row).top(6).path.tolist()
        panel.other.value = NOBODY
        assert panel.other_strip.value == ""

    def test_errors_are_shown_and_strip_is_kept(self, panel):
        before = panel.strip.value
        panel.model.value = "half"
        assert "unfinished or not scored" in panel.says.value
        assert panel.model.value == "first" and panel.strip.value == before
        panel.use.value = "alone"
        before = panel.strip.value
        panel.text.value = "a <xylophone>"
        assert "&lt;" in panel.says.value and "xylophone" in panel.says.value and panel.strip.value == before
        panel.text.value, panel.ap.value = "", (0.999, 0.9995)
        assert "widen" in panel.says.value and panel.strip.value
        panel.save.click()
        assert "no query is chosen" in panel.says.value

    def test_upload_searches_and_invalid_upload_is_refused(self, panel, source):
        def give(name, content):
            panel.upload._handle_custom_msg({"name": name}, [memoryview(content)])  # as a browser sends it

        path = source.benchmark.gallery.path.iloc[4]
        give("mine.png", (source.benchmark.root / path).read_bytes())
        assert self._alts(panel.strip.value)[1] == path
        before = panel.strip.value
        give("none.png", b"no picture")
        assert "none.png" in panel.says.value and panel.strip.value == before
        panel.save.click()
        assert "only a query of the benchmark can be saved" in panel.says.value
        panel.back.click()
        assert self._alts(panel.strip.value)[0].startswith("query/")

    def test_attention_maps_have_method_and_scale(self, panel, source, monkeypatch):
        def corner(encoder, images):
            assert encoder is source.encoder and images.dtype == torch.uint8
            return torch.zeros(images.shape[0], 96, 48).index_fill(1, torch.arange(24), 1 / (24 * 48))

        plain = panel.strip.value
        monkeypatch.setattr(explorer_module, "rollout", corner)
        panel.attention.value = True
        assert self._alts(panel.strip.value) == self._alts(plain) and panel.strip.value != plain
        assert "height:224px" in panel.strip.value and "height:112px" not in panel.strip.value
        assert "Attention rollout" in panel.scale.value and "4.0 times the mean" in panel.scale.value
        panel.attention.value = False
        assert panel.strip.value == plain and panel.scale.value == ""

    def test_figure_is_saved_under_free_name(self, panel, tmp_path):
        assert panel.file.value == "explore-first-1"
        panel.vocabulary.value = "clothing removed"
        panel.save.click()
        first = tmp_path / "figures" / "explore-first-1.pdf"
        assert first.exists() and "saved in" in panel.says.value and panel.file.value == "explore-first-2"
        assert not plt.get_fignums() and panel.save.description == "Save figure" and not panel.save.disabled
        before, panel.file.value = first.read_bytes(), "explore-first-1"
        panel.save.click()
        assert "exists; choose another name" in panel.says.value and first.read_bytes() == before
        panel.file.value = " "
        panel.save.click()
        assert "no name" in panel.says.value
        panel.text.value, panel.use.value, panel.file.value = RED, "alone", "words"
        panel.save.click()
        table = pd.read_csv(tmp_path / "figures" / "words.csv")
        assert len(table) == 7 and not table.right[1:].any() and table.look.str.contains("alone").all()


def test_missing_image_is_gray_box_with_name(source):
    frame = source.benchmark.gallery.copy()
    frame["path"] = [f"gone/{i}.png" for i in range(len(frame))]
    explorer = panels.Explorer({"x": replace(source, benchmark=replace(source.benchmark, gallery=frame))})
    answer = explorer.ranks("x", RULE, 0)
    strip = panels.strip_html("", panels.strip_cells(answer, answer.top(5), explorer.thumbnails("x")))
    assert strip.count("no image") == 5 and "does not exist" in strip


def test_tracklets_are_shown_by_first_frame(random_clip, source, tmp_path):
    data = datasets.load("ccvid", trees.ccvid(tmp_path))
    encoder = VisualEncoder(random_clip, None, "none", torch.Generator()).eval()
    found = retrieval.embed_benchmark(encoder, data, SIZE)
    tracks = replace(source, benchmark=data, query=found.query, gallery=found.gallery)
    panel = panels.panel(panels.Explorer({"first": tracks}), top=3)
    assert [value for _, value in panel.query.options] == [(0, 0)], "008 has one outfit"
    assert "session1/007_01/00001.jpg" in panel.strip.value and "session3/007_03/00001.jpg" in panel.strip.value


def test_maps_are_clothing_coordinates_and_rest(source):
    for rank in (0, 5):
        side = panels.sides(source, rank)
        basis = vocabulary.subspace(source.words.features["clothing removed"], rank or 8)
        gallery, query = (F.normalize(part.f, dim=1) for part in (source.gallery, source.query))
        wanted = (torch.cat([gallery, query]) - gallery.mean(0)) @ basis
        np.testing.assert_allclose(side["clothes"], wanted.numpy(), atol=1e-5)
        assert np.abs(side["identity"] @ basis.numpy()).max() < 1e-5 and len(side["identity"]) == len(wanted)


def test_query_and_ranking_are_marked_in_both_maps(source, explorer):
    frame = panels.placed(source.benchmark)
    points = np.random.default_rng(0).uniform(-1, 1, (2, len(frame), 2)).astype(np.float32)
    maps = panels.linked_maps(
        {"clothes": points[0], "identity": points[1]}, frame, thumbnails.Thumbnails(source.benchmark.root)
    )
    panel = panels.panel(explorer, top=6, maps=maps)
    answer = explorer.ranks("first", RULE, panel.query.value[0])
    for name, place in (("clothes", 0), ("identity", 1)):
        drawn = maps.scatters[name].widget
        marks = np.array(list(MARKS))[drawn.points[:, 2].astype(int)]
        assert [tuple(np.round(colour, 2)) for colour in drawn.color] == [
            tuple(np.round(to_rgba(colour), 2)) for colour, _ in MARKS.values()
        ]
        order = list(dict.fromkeys(marks[drawn.point_order]))
        assert order == [mark for mark in MARKS if mark in order], "the query above all others"
        for i, image in enumerate(frame.itertuples()):
            mine, place_in = image.person == answer.query.person, i in answer.rows[:6]
            wanted = "other image"
            if i >= len(source.benchmark.gallery):
                wanted = "query" if image.path == answer.query.path else wanted
            elif place_in:
                wanted = "right answer" if mine else "wrong answer"
            elif mine:
                wanted = "same person, ranked lower"
            assert marks[i] == wanted, image
        assert np.ptp(drawn.points[:, 0]) > 1.5 and place in (0, 1)
    panel.text.value, panel.use.value = RED, "alone"
    marks = np.array(list(MARKS))[maps.scatters["clothes"].widget.points[:, 2].astype(int)]
    assert set(marks) == {"answer", "other image"} and (marks == "answer").sum() == 6
    figure = panels.maps_figure({"a": points[0]}, marks, [0, 3], frame, thumbnails.Thumbnails(source.benchmark.root))
    assert {text.get_text() for text in figure.subfigs[0].legends[0].get_texts()} == {"answer", "other image"}
    plt.close(figure)


def test_marks_wait_until_the_browser_has_drawn_those_before(source, explorer):
    """jupyter-scatter drops points that arrive while it draws."""
    frame = panels.placed(source.benchmark)
    points = np.random.default_rng(0).uniform(-1, 1, (len(frame), 2)).astype(np.float32)
    maps = panels.linked_maps({"clothes": points}, frame, thumbnails.Thumbnails(source.benchmark.root))
    widget, browser = maps.scatters["clothes"].widget, maps._frames
    one, two, three = (explorer.ranks("first", RULE, row) for row in (0, 7, 9))

    def marked() -> str:
        [row] = np.flatnonzero(widget.points[:, 2] == list(MARKS).index("query"))
        return frame.path[row]

    maps.mark(one, one.top(3))
    before = widget.points
    browser.drawn = browser.sent  # the browser shows the maps, and may have dropped what came before
    assert browser.sent == 2 and marked() == one.query.path and not np.array_equal(widget.points, before)
    maps.mark(two, two.top(3))
    maps.mark(three, three.top(3))
    assert marked() == one.query.path and browser.sent == 2
    browser.drawn = 2
    assert marked() == three.query.path and browser.sent == 3
    browser.drawn = 3
    assert browser.sent == 3


def test_layout_separates_clusters():
    generator = np.random.default_rng(0)
    label = np.repeat([0, 1], 20)
    features = (np.eye(8)[label] + 0.05 * generator.standard_normal((40, 8))).astype(np.float32)
    for largest in (100, 10):  # t-SNE, and the first two components
        placed = panels.layout(features, largest=largest)
        assert placed.shape == (40, 2) and np.abs(placed).max() <= 1 + 1e-6
        gap = np.linalg.norm(placed[label == 0].mean(0) - placed[label == 1].mean(0))
        assert gap > 2 * placed[label == 0].std(0).max()
    with pytest.raises(InputError, match="four"):
        panels.layout(features[:3])


def test_selection_is_shared_by_maps_and_strip(source):
    frame = source.benchmark.gallery
    points = np.random.default_rng(0).uniform(-1, 1, (2, len(frame), 2)).astype(np.float32)
    linked = panels.linked_maps(
        {"clothes": points[0], "identity": points[1]}, frame, thumbnails.Thumbnails(source.benchmark.root)
    )
    one, two = (scatter.widget for scatter in linked.scatters.values())
    one.selection = np.array([3, 8], dtype=np.uint32)
    assert list(two.selection) == [3, 8]
    assert [frame.path.iloc[i] in linked.strip.value for i in (3, 8, 9)] == [True, True, False]
    two.selection = np.array([9], dtype=np.uint32)
    assert list(one.selection) == [9] and frame.path.iloc[9] in linked.strip.value
    one.hovering = 5
    assert frame.path.iloc[5] in linked.preview.value
