"""Benchmark runs: numbers as by direct calls, kill and resume, engines, data sets, bad input."""

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core import benchmarks
from cdam_core.__main__ import main
from cdam_core.benchmarks import datasets, engines, measuring, results, runner, same_thing, tuning
from cdam_core.benchmarks.masks import coverage, measure_map
from cdam_core.commands import asking
from cdam_core.errors import BadData
from cdam_core.images import open_image
from cdam_core.scenes.classes import CLASS_NAMES
from tests.conftest import CLASSES, SIZE, tiny_vit

ROOT = Path(__file__).parent.parent
N_PATCHES = 24  # of the tiny models
NAMES = [f"class {index}" for index in range(CLASSES)]
QUICK = {"steps": 4, "boxes": 3, "rankings": 2, "blur_sigma": 3.0}


def model_of_noise():
    return cdam.wrap(tiny_vit(), NAMES)


def write_scenes(path, count=4, seed=0):
    """An archive of scenes of two squares, as the generator's script writes it."""
    draw = np.random.default_rng(seed)
    listed = []
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            picture = draw.integers(0, 256, (*SIZE, 3), np.uint8)
            mask = np.zeros(SIZE, np.uint8)
            mask[4:20, 4:20], mask[8:28, 26:46] = 1, 2
            for name, array, kind in ((f"{index:03d}.jpg", picture, "JPEG"),
                                      (f"{index:03d}.png", mask, "PNG")):  # fmt: skip
                buffer = io.BytesIO()
                Image.fromarray(array).save(buffer, kind)
                archive.writestr(name, buffer.getvalue())
            one, two = draw.choice(CLASSES, 2, replace=False)
            listed.append({"labels": [int(one), int(two)]})
        archive.writestr("scenes.json", json.dumps(listed))
    return path


def table_of(out):
    """The results without what differs from run to run by nature: the time that maps took."""
    return pd.read_parquet(out / runner.RESULTS).drop(columns="seconds")


def assert_same(one, two):
    pd.testing.assert_frame_equal(one, two, check_exact=True)


# ---- numbers -------------------------------------------------------------------------------------


def test_every_row_is_what_a_direct_call_gives(tmp_path):
    model = model_of_noise()
    data = datasets.open_data(model, write_scenes(tmp_path / "scenes.zip", 2))
    ask = runner.Ask(runner.methods_for(model), seed=3, limit=1, **QUICK)
    done = []
    summary = runner.run(model, data, tmp_path / "out", ask, on_progress=done.append)
    assert (summary.images, summary.broken, summary.left_out) == (1, {}, {})
    finished = [(step.stage, step.done, step.total) for step in done if step.image]
    assert finished == [("measuring", 1, 1)]
    table = table_of(tmp_path / "out")
    assert summary.rows == len(table)
    assert set(table["method"]) == {*runner.methods_for(model), results.RANDOM}
    assert "pooled_cdam" not in set(table["method"])

    (item,), _ = datasets.split(data.items, 3, 1, 0)
    picture = data.read(item)
    pixels = model.preprocess(open_image(picture.content))
    seed = measuring.image_seed(3, item.id)
    names = [NAMES[label] for label in item.labels]
    rows = table.set_index(["method", "target", "output", "measure"]).sort_index()
    ablation = cdam.explain(model, pixels, list(item.labels), "token_ablation").scores
    mask = datasets.mask_of(picture)
    for method in ("cdam", "attention", "smooth_cdam", "smoothgrad"):
        more = {"seed": seed} if "smooth" in method else {}
        maps = cdam.explain(model, pixels, list(item.labels), method, **more).scores
        for target, scores in enumerate(maps):
            for output, label in enumerate(item.labels):
                direct = benchmarks.fidelity(model, pixels, scores, label, 4, 3.0, seed)
                boxes = benchmarks.box_sensitivity(model, pixels, scores, label, None, 3, 3.0, seed)
                expected = {
                    "mif": (direct.area_mif, direct.fractions, direct.mif),
                    "lif": (direct.area_lif, direct.fractions, direct.lif),
                    "fidelity": (direct.area, direct.fractions, direct.lif - direct.mif),
                    "box": (boxes.area, boxes.sizes, boxes.correlation),
                }
                for measure, (value, x, curve) in expected.items():
                    row = rows.loc[(method, names[target], names[output], measure)]
                    assert row["kind"] == ("right" if target == output else "wrong")
                    assert row["value"] == pytest.approx(value, rel=1e-9, abs=1e-9)
                    np.testing.assert_array_equal(row["x"], np.float32(x))
                    np.testing.assert_allclose(row["curve"], np.float32(curve), 1e-6, 1e-6)
            own = rows.loc[(method, names[target], names[target])]["value"]
            assert own["compactness"] == benchmarks.compactness(scores)
            agrees = benchmarks.ablation_correlation(scores, ablation[target]).mean
            assert own["ablation_correlation"] == pytest.approx(agrees)
            covers = [coverage(mask, number, (4, 6)) for number in (1, 2)]
            seen = measure_map(benchmarks.to_patches(scores, (4, 6)), covers[target],
                               covers[1 - target])  # fmt: skip
            assert own["strongest_on_target"] == seen["hit_target"]
            assert own["strongest_on_other"] == seen["hit_other"]
            assert own["mass_inside"] == pytest.approx(seen["mass_target"])
            assert own["mass_other"] == pytest.approx(seen["mass_other"])
            assert own["other_negative"] == seen["other_negative"]
    band = benchmarks.random_band(model, pixels, item.labels[0], 4, 3.0, 2, seed)
    own = rows.loc[("random", names[0], names[0])]
    assert own.loc["mif", "value"] == pytest.approx(band.area_mean)
    assert own.loc["random_sd", "value"] == pytest.approx(band.area_sd)
    np.testing.assert_allclose(own.loc["random_sd", "curve"], band.sd, 1e-5)
    assert own.loc["fidelity", "value"] == 0


def test_run_json_says_what_repeats_the_run(tmp_path):
    model = model_of_noise()
    data = datasets.open_data(model, write_scenes(tmp_path / "scenes.zip"))
    ask = runner.Ask(("cdam", "smooth_cdam", "integrated_gradients"), ("compactness",), "paper",
                     limit=2, held_out=1, tuning_steps=3,
                     settings={"integrated_gradients": {"steps": 2}}, **QUICK)  # fmt: skip
    runner.run(model, data, tmp_path / "out", ask)
    about = json.loads((tmp_path / "out" / runner.RUN).read_text("utf-8"))
    assert about["finished"] is True
    assert about["model"]["weights_sha256"] == model.weights_sha256
    assert about["data"]["digest"] == data.digest
    assert about["settings"]["integrated_gradients"] == {"steps": 2, "baseline": "zero"}
    assert about["settings"]["smooth_cdam"]["at"] == "block_input"
    assert about["images"] == {"asked": 2, "limit": 2, "done": 2, "broken": []}
    assert about["perturbation"]["blur_sigma_relative"] == 3 / 32
    assert about["engine"]["chunk"] == 16
    chosen = about["tuning"]["smooth_cdam"]
    assert about["settings"]["smooth_cdam"]["sigma_share"] == chosen["chosen"]


# ---- tuning --------------------------------------------------------------------------------------


def test_the_noise_is_chosen_by_fidelity_on_pictures_that_are_not_tested_on(tmp_path):
    model = model_of_noise()
    data = datasets.open_data(model, write_scenes(tmp_path / "scenes.zip", 6))
    ask = runner.Ask(("smooth_cdam",), ("fidelity",), held_out=2, tuning_steps=3,
                     settings={"smooth_cdam": {"n": 3}}, **QUICK)  # fmt: skip
    runner.run(model, data, tmp_path / "out", ask)
    test, held = datasets.split(data.items, 0, None, 2)
    assert not {item.id for item in test} & {item.id for item in held}
    assert set(table_of(tmp_path / "out")["image"]) == {item.id for item in test}
    shares = tuning.SHARES["smooth_cdam"]
    areas = np.zeros((2, len(shares)))
    for row, item in enumerate(held):
        pixels = model.preprocess(open_image(data.read(item).content))
        seed = measuring.image_seed(0, item.id)
        start = model.last_norm(model.encode(pixels).tokens)
        for column, share in enumerate(shares):
            maps = cdam.explain(model, pixels, list(item.labels), "smooth_cdam", n=3, seed=seed,
                                sigma=share * float(start.max() - start.min())).scores  # fmt: skip
            areas[row, column] = np.mean(
                [benchmarks.fidelity(model, pixels, scores, label, 3, 3.0, seed).area
                 for scores, label in zip(maps, item.labels, strict=True)])  # fmt: skip
    about = json.loads((tmp_path / "out" / runner.RUN).read_text("utf-8"))["tuning"]["smooth_cdam"]
    np.testing.assert_allclose(about["areas"], areas.mean(0), rtol=1e-9)
    np.testing.assert_allclose(about["errors"], areas.std(0, ddof=1) / 2**0.5, rtol=1e-9)
    assert about["chosen"] == shares[int(areas.mean(0).argmax())]
    assert (about["images"], about["steps"]) == (2, 3)


@pytest.mark.parametrize(("method", "at", "default"), [
    ("smooth_cdam", "tokens", 0.05), ("smooth_cdam", "block_input", 0.05),
    ("smoothgrad", None, 0.15),
])  # fmt: skip
def test_a_share_means_what_the_methods_own_default_means(method, at, default, model, pixels):
    more = {"at": at} if at else {}
    own = cdam.explain(model, pixels, 0, method, n=1, **more).settings["sigma"]
    reach = measuring.noise_range(model, method, pixels, model.encode(pixels), at)
    assert own == pytest.approx(default * reach, rel=1e-6)


# ---- stop and go on ------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from cdam_core.benchmarks import datasets, engines, runner
from tests.test_benchmark_run import QUICK, model_of_noise

if __name__ == "__main__":
    archive, out, engine, pace = sys.argv[1:]
    model = model_of_noise()
    data = datasets.open_data(model, archive)
    ask = runner.Ask(("cdam", "attention", "smooth_cdam"), seed=1, **QUICK)

    def told(step):
        import time
        if not step.image:
            return
        print("done", step.done, flush=True)
        time.sleep(float(pace))

    runner.run(model, data, Path(out), ask, engines.ENGINES[engine](workers=2), told)
"""


def driver(tmp_path, out, engine="local", pace=0.0):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(home),
                                "RAY_worker_niceness": "0"}
    arguments = [sys.executable, str(script), str(tmp_path / "scenes.zip"), str(out), engine,
                 str(pace)]  # fmt: skip
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)


def unbroken(tmp_path, count):
    """The table of a run in one go, by one worker."""
    model = model_of_noise()
    data = datasets.open_data(model, write_scenes(tmp_path / "scenes.zip", count))
    ask = runner.Ask(("cdam", "attention", "smooth_cdam"), seed=1, **QUICK)
    runner.run(model, data, tmp_path / "whole", ask, engines.Local(workers=1))
    return table_of(tmp_path / "whole")


def test_killed_in_mid_run_and_resumed_gives_the_same_table(tmp_path):
    whole = unbroken(tmp_path, 6)
    first = driver(tmp_path, tmp_path / "out", pace=1.0)
    assert first.stdout.readline().startswith("done 1")
    first.kill()
    first.communicate()
    kept = len(list((tmp_path / "out" / "parts").glob("*.parquet")))
    assert 1 <= kept < 6
    assert not (tmp_path / "out" / runner.RESULTS).exists()
    second = driver(tmp_path, tmp_path / "out")
    told, _ = second.communicate(timeout=600)
    assert second.returncode == 0
    assert told.count("done") == 6 - kept, "what was finished is not measured again"
    assert_same(table_of(tmp_path / "out"), whole)


def test_another_run_with_other_methods_adds_to_the_first(tmp_path):
    whole = unbroken(tmp_path, 3)
    model, out = model_of_noise(), tmp_path / "out"
    data = datasets.open_data(model, tmp_path / "scenes.zip")
    for methods, measures, limit in (
        (("attention",), measuring.GROUPS, 2),
        (("smooth_cdam", "cdam"), ("fidelity", "box"), None),
        (("cdam", "attention", "smooth_cdam"), measuring.GROUPS, None),
    ):
        ask = runner.Ask(methods, measures, seed=1, limit=limit, **QUICK)
        runner.run(model, data, out, ask)
    assert_same(table_of(out), whole)
    about = json.loads((out / runner.RUN).read_text("utf-8"))
    assert set(about["settings"]) == {"attention", "cdam", "smooth_cdam"}
    (out / "parts").joinpath(next((out / "parts").iterdir())).write_bytes(b"damaged")
    runner.run(model, data, out, ask)
    assert_same(table_of(out), whole)
    for other in ({"steps": 5}, {"settings": {"smooth_cdam": {"n": 2}}}, {"seed": 2}):
        with pytest.raises(BadData) as caught:
            runner.run(model, data, out, runner.Ask(methods, **(QUICK | {"seed": 1} | other)))
        assert caught.value.reason == "other-run"
    (out / runner.RUN).write_text("{")
    with pytest.raises(BadData, match="no readable run"):
        runner.run(model, data, out, ask)


def test_leaving_early_stops_the_workers_and_keeps_what_is_done(tmp_path):
    whole = unbroken(tmp_path, 5)
    model, out = model_of_noise(), tmp_path / "out"
    data = datasets.open_data(model, tmp_path / "scenes.zip")
    ask = runner.Ask(("cdam", "attention", "smooth_cdam"), seed=1, **QUICK)

    def stop(step):
        if step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(model, data, out, ask, engines.Local(workers=2), stop)
    kept = table_of(out)
    assert len(set(kept["image"])) == 2
    about = json.loads((out / runner.RUN).read_text("utf-8"))
    assert about["finished"] is False
    assert about["images"]["done"] == 2
    runner.run(model, data, out, ask)
    assert_same(table_of(out), whole)


# ---- engines -------------------------------------------------------------------------------------


def workers_of(process):
    """Processes of Ray's workers that belong to a driver's own cluster."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = place.read_bytes().replace(b"\0", b" ").decode()
            parent = place.parent.joinpath("environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text.startswith("ray::") and "_Worker" in text and str(process) in parent:
            found.append(int(place.parent.name))
    return found


@pytest.mark.slow
def test_ray_gives_the_same_rows_even_if_a_worker_is_killed(tmp_path):
    """A real Ray on this machine; the rows are bit-identical to those of threads."""
    whole = unbroken(tmp_path, 6)
    process = driver(tmp_path, tmp_path / "out", "ray", pace=1.0)
    assert process.stdout.readline().startswith("done 1")
    victims = workers_of(tmp_path / "home")
    assert victims, "no worker of this run was found"
    os.kill(victims[0], signal.SIGKILL)
    told, _ = process.communicate(timeout=900)
    assert process.returncode == 0
    assert told.count("done") == 5
    assert_same(table_of(tmp_path / "out"), whole)
    about = json.loads((tmp_path / "out" / runner.RUN).read_text("utf-8"))
    assert about["engine"]["name"] == "ray"


def test_a_cluster_that_is_not_there_is_one_sentence(model, monkeypatch):
    class Absent:
        def is_initialized(self):
            return False

        def init(self, **options):
            assert options["address"] == "nowhere:1"
            assert "num_cpus" not in options
            raise ConnectionError

    monkeypatch.setattr(engines, "_ray", Absent)
    with pytest.raises(BadData, match="could not be started or reached"):
        list(engines.Ray("nowhere:1").map(None, model, None, []))


def test_other_batches_and_threads_give_the_same_rows_but_for_rounding(tmp_path, monkeypatch):
    whole = unbroken(tmp_path, 2)
    about = json.loads((tmp_path / "whole" / runner.RUN).read_text("utf-8"))["engine"]
    assert (about["chunk"], about["repeats"]) == (16, runner.EXACT)
    monkeypatch.setattr("cdam_core.methods.blocks.MAX_IMAGES_ON_CPU", 5)
    model, out = model_of_noise(), tmp_path / "out"
    data = datasets.open_data(model, tmp_path / "scenes.zip")
    ask = runner.Ask(("cdam", "attention", "smooth_cdam"), seed=1, **QUICK)
    runner.run(model, data, out, ask, engines.Local(workers=1, threads=2))
    other = table_of(out)
    names = ["image", "target", "output", "kind", "method", "measure"]
    assert_same(other[names], whole[names])
    np.testing.assert_allclose(other["value"], whole["value"], rtol=1e-4, atol=1e-6)
    for one, two in zip(other["curve"], whole["curve"], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    about = json.loads((out / runner.RUN).read_text("utf-8"))["engine"]
    assert (about["chunk"], about["threads"], about["repeats"]) == (5, 2, runner.ROUNDED)


def test_between_pictures_the_time_left_follows_the_images_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PULSE", 0.0)
    model = model_of_noise()
    data = datasets.open_data(model, write_scenes(tmp_path / "scenes.zip", 1))
    ask = runner.Ask(("cdam", "attention"), ("fidelity", "box", "ablation"), **QUICK)
    plan = measuring.Plan(**QUICK)
    todo = measuring.wanted(ask.methods, ask.measures, True)
    part = measuring.measure(model, data.read(data.items[0]), plan, todo)
    # The boxes that were drawn twice are shown once, and an ablation shows no perturbed image.
    most = measuring.images_to_show(model, plan, todo, 2) - N_PATCHES
    assert most - 3 * 3 < part.forwards <= most

    told = []
    pulse = runner._Pulse("measuring", 100, 1, told.append)
    for shown in (0, 25, 100):
        pulse(shown)
    assert np.isnan(told[0].seconds_left)
    assert told[2].seconds_left == 0 < told[1].seconds_left
    counted, stop = [0, 0], engines.threading.Event()
    on_step = engines._counter(counted, 1, stop)
    for step in ((2, 4), (4, 4), (3, 9), (9, 9), (1, 1)):
        on_step(*step)
    assert counted == [0, 14]
    stop.set()
    with pytest.raises(engines.Stopped):
        on_step(1, 2)


def test_a_mistake_in_a_worker_reaches_the_caller(model, tmp_path):
    def wrong(*_):
        raise BadData("empty", "out of pictures")

    jobs = [engines.Job(lambda: None, None)] * 3
    with pytest.raises(BadData, match="out of pictures"):
        list(engines.Local(workers=2).map(wrong, model, None, jobs))


# ---- data sets -----------------------------------------------------------------------------------


def write_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def imagenet_model():
    return cdam.wrap(tiny_vit(num_classes=1000), cdam.models.imagenet_names())


@pytest.mark.parametrize(("name", "objects"), [("scenes:single", 1), ("scenes:pairs", 2)])
def test_the_bundled_scenes_show_what_they_say_and_are_no_others(name, objects):
    model = cdam.wrap(tiny_vit(num_classes=len(CLASS_NAMES)), CLASS_NAMES)
    data = datasets.open_data(model, name)
    known = datasets.open_data(model, ROOT / "tests" / "data" / "scenes_test.zip")
    assert len(data.items) == len({item.id for item in data.items}) == 300
    assert {len(set(item.labels)) for item in data.items} == {objects}
    assert len({label for item in data.items for label in item.labels}) == len(CLASS_NAMES)
    seen = {data.read(item).sha256 for item in data.items}
    assert len(seen) == 300
    assert not seen & {known.read(item).sha256 for item in known.items}
    for item in data.items[:3]:
        picture = data.read(item)
        assert open_image(picture.content).size == (336, 336)
        assert sorted(np.unique(datasets.mask_of(picture))) == list(range(objects + 1))


def test_a_folder_by_class_and_a_truncated_image(tmp_path):
    model, folder = model_of_noise(), tmp_path / "data"
    for index, name in enumerate(("Class 1", "class 3", "0")):
        for copy in range(2):
            write_image(folder / name / f"{copy}.png", 10 * index + copy)
    data = datasets.open_data(model, folder)
    assert [(item.id, item.labels) for item in data.items] == [
        ("0/0.png", (0,)), ("0/1.png", (0,)), ("Class 1/0.png", (1,)), ("Class 1/1.png", (1,)),
        ("class 3/0.png", (3,)), ("class 3/1.png", (3,))]  # fmt: skip
    broken = folder / "class 3" / "1.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    ask = runner.Ask(("cdam",), ("fidelity",), **QUICK)
    summary = runner.run(model, data, tmp_path / "out", ask)
    assert summary.broken == {"class 3/1.png": "truncated"}
    table = table_of(tmp_path / "out")
    assert len(set(table["image"])) == summary.images == 5
    assert set(table["kind"]) == {"right"}
    write_image(broken, 31)  # repaired: the same command takes it in
    assert runner.run(model, data, tmp_path / "out", ask).broken == {}
    assert len(set(table_of(tmp_path / "out")["image"])) == 6


def test_labels_from_a_table(tmp_path):
    model, folder = imagenet_model(), tmp_path / "data"
    for index in range(3):
        write_image(folder / "val" / f"ILSVRC2012_val_{index + 1:08d}.png", index)
    first, third = (f"ILSVRC2012_val_{number:08d}" for number in (1, 3))
    for text in (f"image,label\n{first}.JPEG,n01440764\n{third}.JPEG,goldfish\nelse.png,2\n",
                 f"ImageId,PredictionString\n{first},n01440764 1 2 3 4\n{third},n01443537 1 2 3 4\n"
                 "else,n01440764 1 2 3 4\n",
                 f"{first}.JPEG 0\n{third}.JPEG 1\nelse.JPEG 7\n"):  # fmt: skip
        table = tmp_path / "labels.csv"
        table.write_text(text)
        data = datasets.open_data(model, folder, table)
        assert [(item.id[:23], item.labels) for item in data.items] == [(first, (0,)),
                                                                         (third, (1,))]  # fmt: skip
        assert data.notes == {"listed": 3, "missing": 1}
        assert data.is_imagenet


def test_x_multi_takes_images_of_two_different_things(tmp_path):
    """Classes: laptop 620, notebook 681, sunglass 836, sunglasses 837, zebra 340, elephant 386."""
    assert int(same_thing.distances()[620, 681]) == 2
    assert int(same_thing.distances()[836, 837]) == 8
    labels = [[620, 681], [836, 837], [340, 386], [340], [], [620, 681, 340], [340, 386, 620]]
    model, folder = imagenet_model(), tmp_path / "val"
    for index in range(len(labels)):
        write_image(folder / f"ILSVRC2012_val_{index + 1:08d}.png", index)
    real = tmp_path / "real.json"
    real.write_text(json.dumps(labels))
    data = datasets.open_data(model, folder, real=real, seed=4)
    assert [int(item.id[15:23]) for item in data.items] == [3, 6, 7]
    assert data.items[0].labels == (340, 386)
    assert data.items[1].labels in ((620, 340), (681, 340))
    assert data.items[2].labels in ((340, 386), (340, 620), (386, 620))
    counts = [data.notes[name] for name in ("images", "with_several_labels", "taken")]
    assert counts == [7, 5, 3]
    told = {tuple(each["labels"]): (each["why"], each["images"])
            for each in data.notes["dropped_pairs"]}  # fmt: skip
    assert told == {("laptop", "notebook"): ("distance 2", 2),
                    ("sunglass", "sunglasses"): ("both are called sunglass", 1)}  # fmt: skip
    assert [item.labels for item in datasets.open_data(model, folder, real=real, seed=4).items] == [
        item.labels for item in data.items]  # fmt: skip
    with pytest.raises(BadData, match="a smaller distance"):
        datasets.open_data(model, folder, real=real, judge=same_thing.Judge(30))


@pytest.mark.data
def test_the_table_of_distances_is_that_of_wordnet():
    """Needs Debian's package wordnet-base; every hundredth class."""
    from scripts import build_wordnet_distances as build

    near = build.graph(Path("/usr/share/wordnet/data.noun"))
    offsets = [synset[1:] for synset in same_thing.synsets()]
    for row in range(0, 1000, 100):
        found = build.distances_from(near, offsets[row])
        assert [found[offset] for offset in offsets] == same_thing.distances()[row].tolist()


def test_names_can_be_compared_by_a_text_embedding_model_too(monkeypatch, tmp_path):
    """A stand-in for the package: the embedding of a name counts its letters."""

    class Counts:
        def __init__(self, folder, local_files_only, device):
            assert local_files_only, "nothing may be fetched"
            if not Path(folder).is_dir():
                raise OSError

        def encode(self, names):
            return [[name.count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz "]
                    for name in names]  # fmt: skip

    monkeypatch.setitem(sys.modules, "sentence_transformers", type(sys)("sentence_transformers"))
    sys.modules["sentence_transformers"].SentenceTransformer = Counts
    names = cdam.models.imagenet_names()
    zebra, bicycle, elephant = 340, names.index("mountain bike"), 386
    one, two = (np.array([names[each].count(letter) + 0.01 for letter in
                          "abcdefghijklmnopqrstuvwxyz "]) for each in (zebra, bicycle))  # fmt: skip
    alike = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    judge = same_thing.Judge(embedder=tmp_path, similarity=alike - 0.001)
    assert judge.why(zebra, bicycle) == f"similarity {alike:.2f}"
    assert same_thing.Judge(embedder=tmp_path, similarity=alike + 0.001).why(zebra, bicycle) == ""
    assert same_thing.Judge().why(zebra, bicycle) == same_thing.Judge().why(zebra, elephant) == ""
    with pytest.raises(BadData, match="holds no text-embedding model"):
        same_thing.Judge(embedder=tmp_path / "none").why(zebra, bicycle)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BadData, match="needs the package sentence-transformers"):
        same_thing.Judge(embedder=tmp_path).why(zebra, bicycle)


def test_timms_copy_of_the_real_labels_is_found():
    labels = datasets._real_labels("timm")
    assert len(labels) == 50_000
    assert sum(len(each) > 1 for each in labels) == 7443


@pytest.mark.parametrize(("text", "sentence"), [
    ("{}", "a list with one list"), ("[[0, 1000]]", "a list with one list"),
    ("[0, 1", "a list with one list"), ("[[1, 2]]", "holds labels of 1 images"),
    ("[[], [1], [3]]", "None of the images shows two"),
])  # fmt: skip
def test_a_wrong_real_file_is_one_sentence(tmp_path, text, sentence):
    write_image(tmp_path / "val" / "ILSVRC2012_val_00000003.png")
    real = tmp_path / "real.json"
    real.write_text(text)
    with pytest.raises(BadData, match=sentence):
        datasets.open_data(imagenet_model(), tmp_path / "val", real=real)


def test_data_that_cannot_be_used_is_one_sentence(tmp_path):
    model = model_of_noise()
    folder = tmp_path / "folder"
    write_image(folder / "class 1" / "a.png")

    def refused(source, match, **more):
        with pytest.raises(BadData, match=match) as caught:
            datasets.open_data(model, source, **more)
        assert "secret" not in str(caught.value)

    refused(tmp_path / "secret", "No such data")
    (folder / "class 2").mkdir()
    refused(folder, "Class folder 2 of 2 .* holds no images")
    (folder / "class 2").rename(folder / "secret")
    refused(folder, "Class folder 2 of 2 .* is not known; expected a class name")
    refused(folder, "model of other classes", real="timm")
    refused(folder / "class 1", "no folders of classes")
    table = tmp_path / "labels.csv"
    for text, match in (("a.png\n", "cannot be used"), ("", "cannot be used"),
                        ("a.png n01440764\n", "Line 1"), ("a.png 1\na.jpg 2", "Line 2"),
                        ("b.png 1\n", "None of the pictures")):
        table.write_text(text)
        refused(folder, match, labels=table)
    table.write_bytes(b"\xff\xfe\x00")
    refused(folder, "cannot be used", labels=table)
    archive = tmp_path / "secret.zip"
    archive.write_bytes(b"no archive")
    refused(archive, "no archive of scenes")
    write_scenes(archive, 1)
    with pytest.raises(BadData, match="Scene 0 shows a class"):
        datasets.open_data(cdam.wrap(tiny_vit(num_classes=1), ["only"]), archive)


def test_scenes_whose_files_are_damaged_are_left_out(tmp_path):
    model, archive = model_of_noise(), write_scenes(tmp_path / "scenes.zip", 3)
    with zipfile.ZipFile(archive) as old:
        content = {name: old.read(name) for name in old.namelist()}
    content["001.png"] = content["001.png"][:60]
    del content["002.jpg"]
    with zipfile.ZipFile(archive, "w") as new:
        for name, each in content.items():
            new.writestr(name, each)
    summary = runner.run(model, datasets.open_data(model, archive), tmp_path / "out",
                         runner.Ask(("cdam",), ("compactness",), **QUICK))  # fmt: skip
    assert summary.broken == {"001": "unreadable", "002": "unreadable"}
    assert summary.images == 1


def test_a_map_without_numbers_leaves_out_its_picture_alone(tmp_path, monkeypatch):
    model = model_of_noise()
    data = datasets.open_data(model, write_scenes(tmp_path / "scenes.zip", 3))
    explain, asked = measuring.explain, []

    def broken_once(*arguments, **more):
        found = explain(*arguments, **more)
        asked.append(found)
        found.scores[0, 0, 0] = np.nan if len(asked) == 2 else 0
        return found

    monkeypatch.setattr(measuring, "explain", broken_once)
    ask = runner.Ask(("cdam",), ("compactness",), **QUICK)
    summary = runner.run(model, data, tmp_path / "out", ask, engines.Local(workers=1))
    second = datasets.split(data.items, 0, None, 0)[0][1].id
    assert summary.broken == {second: "not-finite"}
    assert second not in set(table_of(tmp_path / "out")["image"])


def test_bad_questions_are_one_sentence():
    for change in ({"methods": ("none",)}, {"methods": ()}, {"measures": ("none",)},
                   {"protocol": "none"}, {"steps": 0}, {"limit": 0}, {"blur_sigma": 0.0},
                   {"settings": {"cdam": {"none": 1}}}, {"settings": {"none": {}}}):  # fmt: skip
        with pytest.raises(cdam.BadTarget):
            runner.Ask(**({"methods": ("cdam",)} | change)).check()


def test_a_larger_limit_adds_pictures_and_never_takes_those_held_out():
    items = [datasets.Item(f"{index}", (0,), "") for index in range(40)]
    test, held = datasets.split(items, 0, 10, 8)
    again, held_again = datasets.split(items[::-1], 0, 20, 8)
    assert again[:10] == test
    assert held == held_again
    assert not set(again) & set(held)
    assert len(datasets.split(items, 0, None, 100)[1]) == 20
    assert datasets.split(items, 1, 10, 8)[0] != test


# ---- command line --------------------------------------------------------------------------------


def test_the_command_runs_resumes_and_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(asking, "load_model", cache(asking.load_model))
    out = tmp_path / "out"
    ask = ["benchmark", "--data", str(ROOT / "tests" / "data" / "scenes_test.zip"), "--size", "42",
           "--methods", "cdam,smooth_cdam", "--setting", "smooth_cdam.n=3", "--measures",
           "fidelity,compactness,masks", "--steps", "3", "--rankings", "2", "--limit", "2",
           "--device", "cpu", "--out", str(out)]  # fmt: skip
    assert main(ask) == 0
    told = capsys.readouterr()
    assert "2 pictures" in told.out
    assert "[measuring 2/2]" in told.err
    whole = table_of(out)
    assert set(whole["measure"]) >= {"fidelity", "compactness", "mass_inside", "other_negative"}
    next((out / "parts").iterdir()).unlink()
    assert main(["benchmark", "--resume", "--device", "cpu", "--out", str(out)]) == 0
    assert "[measuring 1/1]" in capsys.readouterr().err
    assert_same(table_of(out), whole)
    for arguments, sentence in (
        ([*ask, "--steps", "4"], "differs in steps"),
        (["benchmark", "--resume", "--out", str(tmp_path)], "no run in this folder"),
        ([*ask, "--workers", "0"], "at least 1"),
        ([*ask, "--setting", "n=3"], "METHOD.NAME=VALUE"),
        ([*ask, "--data", str(tmp_path / "none")], "No such data"),
    ):
        assert main(arguments) == 2
        assert sentence in capsys.readouterr().err
