"""Training nodule models: everything measured against slow versions; two steps; resumed."""

import csv
import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

import cdam_core as cdam
from cdam_core.__main__ import main
from cdam_core.assets import assets_dir
from cdam_core.errors import BadScan, BadTarget
from cdam_core.late_vit import LateClassTokenViT, OwnClassTokenViT
from cdam_core.nodules import baselines, quality, training
from cdam_core.nodules.crops import AXIS_MM, PIXEL_MM, to_image
from cdam_core.nodules.outlines import agreement
from cdam_core.nodules.pack import BIOMARKERS, load_nodules
from cdam_core.nodules.phantom import Phantom
from cdam_core.nodules.splits import load_split
from cdam_core.nodules.training import Data, Settings, Trainer, layers_from_head
from cdam_core.nodules.views import TokenCache, to_pixels, view_hu

TINY = {"backbone_depth": 2, "img_size": 56, "embed_dim": 24, "num_heads": 3}
SIDE = 56


def few(count=4):
    """Some nodules of every part, both labels in each."""
    chosen = []
    for part in ("train", "val", "test"):
        ids = set(getattr(load_split(), part))
        for malignant in (False, True):
            chosen += [n for n in load_nodules() if n.id in ids and n.malignant == malignant
                       ][:count]
    return tuple(sorted(chosen, key=lambda nodule: nodule.id))


class TinyNetwork(training.LateNetwork):
    """The same, on a network small enough for a test."""

    def __init__(self, settings, outputs):
        torch.manual_seed(settings.seed)
        self.module = LateClassTokenViT(outputs, trained_blocks=1, **TINY)
        torch.nn.init.normal_(self.module.late_cls_token)
        for parameter in self.module.backbone_state():
            self.module.get_parameter(parameter).requires_grad_(False)
        self.backbone_sha256, self.start_sha256, self.side = "tiny", "start", SIDE
        self.mean, self.std = training.MEAN, training.STD


@pytest.fixture
def tiny(monkeypatch):
    def network(backbone, settings):
        return TinyNetwork(settings, training.output_count(settings))

    monkeypatch.setattr(training, "new_network", network)
    return network


def recipe(**changes):
    return Settings(**{"epochs": 2, "batch": 8, "views": 2, "side": SIDE} | changes)


def fitted(tmp_path, settings, nodules=None):
    return training.fit("bundled", settings, Phantom(), nodules or few(), tmp_path,
                        say=lambda line: None)


# ---- views ---------------------------------------------------------------------------------------

def test_pixels_are_those_that_a_model_makes_of_the_picture():
    hu = Phantom().crop(load_nodules()[0])
    model = cdam.load_model("scenes", input_size=(168, 168))
    torch.testing.assert_close(to_pixels([hu], 168), model.preprocess(to_image(hu)),
                               rtol=0, atol=1e-6)


def test_view_0_is_the_middle_and_others_change_everything_by_their_number():
    nodule = load_nodules()[9]
    np.testing.assert_array_equal(view_hu(Phantom(), nodule, 0), Phantom().crop(nodule))
    one, two = (view_hu(Phantom(), nodule, view) for view in (1, 2))
    assert np.abs(one - two).mean() > 5
    np.testing.assert_array_equal(one, view_hu(Phantom(), nodule, 1))


def test_tokens_are_computed_once_and_kept_apart(tmp_path):
    nodules, calls = few(1), []

    def encode(pixels):
        calls.append(len(pixels))
        return pixels.mean((2, 3))[:, None]

    cache = TokenCache(tmp_path, encode, "one", SIDE)
    first = cache.read(Phantom(), nodules, 0)
    done = len(calls)
    np.testing.assert_array_equal(cache.read(Phantom(), nodules, 0), first)
    assert len(calls) == done
    TokenCache(tmp_path, encode, "other", SIDE).read(Phantom(), nodules, 0)
    assert len(calls) == 2 * done


# ---- baselines -----------------------------------------------------------------------------------

def test_shape_features_of_a_disc_and_a_bar():
    distance = np.hypot(*np.meshgrid(AXIS_MM, AXIS_MM))
    disc = dict(zip(baselines.SHAPE_FEATURES, baselines.shape_features(
        (distance < 6).astype(float)), strict=True))
    assert np.expm1(disc["log area"]) == pytest.approx(np.pi * 36, rel=0.03)
    assert disc["major axis"] == pytest.approx(6, rel=0.03)
    assert disc["eccentricity"] < 0.2
    assert disc["solidity"] > 0.9
    assert disc["disagreement"] == 0
    bar = np.zeros((64, 64))
    bar[30:34, 10:50] = 1
    bar = dict(zip(baselines.SHAPE_FEATURES, baselines.shape_features(bar), strict=True))
    assert np.expm1(bar["log area"]) == pytest.approx(4 * 40 * PIXEL_MM**2)
    assert bar["eccentricity"] > 0.98
    assert bar["circularity"] < 0.6 * disc["circularity"]
    assert np.isfinite(baselines.shape_features(np.zeros((64, 64)))).all()


def test_linear_models_agree_with_an_independent_library():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(80, 3)), np.ones(80)])
    y = x @ [1.0, -2, 0.5, 3] + rng.normal(size=80)
    theirs = Ridge(alpha=2.0).fit(x[:, :3], y)
    np.testing.assert_allclose(baselines.ridge(x, y, 2.0), [*theirs.coef_, theirs.intercept_],
                               rtol=1e-8)
    labels = (y > 3).astype(float)
    theirs = LogisticRegression(C=1 / 2.0, tol=1e-10, max_iter=1000).fit(x[:, :3], labels)
    np.testing.assert_allclose(baselines.logistic(x, labels, 2.0),
                               [*theirs.coef_[0], theirs.intercept_[0]], rtol=1e-4, atol=1e-5)


def test_the_penalty_is_chosen_on_validation():
    rng = np.random.default_rng(1)
    x, train, val = rng.normal(size=(60, 20)), np.arange(30), np.arange(30, 60)
    y = x[:, 0] + rng.normal(size=60)
    found = baselines.predicted(x, y, train, val, classify=False)
    scaled = baselines.standardised(x, train)
    errors = [((scaled @ baselines.ridge(scaled[train], y[train], s) - y)[val] ** 2).mean()
              for s in baselines.STRENGTHS]
    assert ((found - y)[val] ** 2).mean() == pytest.approx(min(errors))


# ---- measures ------------------------------------------------------------------------------------

def test_measures_agree_with_an_independent_library():
    rng = np.random.default_rng(2)
    labels, logits = rng.integers(0, 2, 60).astype(float), rng.normal(size=60).round(1)
    assert quality.auc(logits, labels) == pytest.approx(roc_auc_score(labels, logits))
    assert quality.accuracy(logits, labels) == np.mean([(a > 0) == (b == 1) for a, b in zip(
        logits, labels, strict=True)])
    assert quality.r_squared(logits, labels) == pytest.approx(r2_score(labels, logits))
    assert np.isnan(quality.auc(logits, np.ones(60)))


def test_intervals_hold_the_usual_standard_error_and_widen_with_patients():
    values = np.random.default_rng(3).normal(size=400)
    alone = quality.with_interval(quality._mean, [str(i) for i in range(400)], values)
    low, high = alone["interval"]
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    same = np.repeat(values[:40], 10)  # ten equal nodules a patient tell no more than one
    together = quality.with_interval(quality._mean, np.repeat(np.arange(40), 10), same)
    low, high = together["interval"]
    assert high - low > 2.3 * (alone["interval"][1] - alone["interval"][0])


def test_shares_of_a_map_known_by_hand():
    cover = np.array([[0.0, 0.5], [0.05, 1.0]])
    shares = quality.map_shares(np.array([[1.0, -2], [3, 4]]), cover)
    assert shares == {"mass": 0.6, "strongest": 1.0, "patches": 0.5}
    assert quality.map_shares(np.array([[-9.0, 2], [3, 4]]), cover)["strongest"] == 0


# ---- training ------------------------------------------------------------------------------------

def test_layers_are_counted_from_the_head():
    names = layers_from_head(LateClassTokenViT(2, **TINY))
    assert set(names[:2]) == {"head.weight", "head.bias"}
    assert set(names[2:4]) == {"norm.weight", "norm.bias"}
    assert all(name.startswith("blocks.2.") for name in names[4:16])
    assert set(names[16:19]) == {"late_norm.weight", "late_norm.bias", "late_cls_token"}
    assert all(name.startswith("blocks.1.") for name in names[19:33])
    assert len(names) == len(set(names))


def test_only_the_asked_layers_change(tmp_path, tiny):
    trainer = fitted(tmp_path, recipe(trainable_layers=4))
    fresh = TinyNetwork(recipe(), 2).module.state_dict()
    changed = {name for name, value in trainer.network.module.state_dict().items()
               if not torch.equal(value, fresh[name])}
    assert changed == {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    with pytest.raises(BadTarget, match="has 47"):  # 19, and two blocks of 14
        Trainer(TinyNetwork(recipe(), 2), Data.of(few(), recipe(), tmp_path),
                recipe(trainable_layers=48))


def test_layers_of_the_backbone_are_trained_from_the_tokens_before_them(tmp_path, tiny):
    """14 tensors are a block: 33 layers are the late ones and the whole of ``blocks.1``."""
    settings = recipe(trainable_layers=33)
    trainer = fitted(tmp_path, settings)
    fresh = TinyNetwork(settings, 2)
    changed = {name for name, value in trainer.network.module.state_dict().items()
               if not torch.equal(value, fresh.module.state_dict()[name])}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks")} == {"1", "2"}
    assert {f"blocks.1.{part}" for part in ("norm1.weight", "mlp.fc2.bias", "ls1.gamma")} <= changed
    nodules, rows = trainer.data.nodules, trainer.data.rows("test")
    found, _ = training.predictions(trainer, "test")
    pixels = to_pixels([Phantom().crop(nodules[row]) for row in rows], SIDE)
    with torch.no_grad():  # from the pixels on, where training began with tokens of 16 bits
        direct = trainer.finish()(pixels)[:, 1:].numpy()
    np.testing.assert_allclose(found, direct, atol=2e-3)


def test_two_steps_of_adam_are_those_of_torch(tmp_path, tiny):
    settings, nodules = recipe(weight_decay=0.0, epochs=1), few()
    data = Data.of(nodules, settings, tmp_path)
    trainer = Trainer(TinyNetwork(settings, 2), data, settings)
    trainer.network.load(Phantom(), nodules, 2, tmp_path)
    slow = TinyNetwork(settings, 2)
    slow.load(Phantom(), nodules, 2, tmp_path)
    free = [p for n, p in slow.module.named_parameters() if n in slow.module.trained_state()]
    adam = torch.optim.Adam(free, 3e-4)
    rows = data.rows("train")[:6]
    for views in (np.zeros(6, int), np.array([0, 1, 0, 1, 0, 1])):
        trainer.step(rows, views)
        tokens = slow.inputs(rows, views)
        module = slow.module.train()
        logit = module.forward_head(module.norm(module.blocks[-1](
            module.join_class_token(tokens))))[:, 1]
        label = torch.tensor([float(nodules[row].malignant) for row in rows])
        loss = -(label * torch.sigmoid(logit).log()
                 + (1 - label) * torch.sigmoid(-logit).log()).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        adam.step()
    # a key bias has no gradient at all in one computation and rounding noise in the other
    for name, value in trainer.network.module.state_dict().items():
        if not name.endswith("attn.qkv.bias"):
            torch.testing.assert_close(value, slow.module.state_dict()[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("options", [
    {"task": "malignancy"}, {"task": "biomarkers"},
    {"task": "malignancy", "token_dropout": 0.5, "average": 0.9, "side_task": "shape+ratings"},
])
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path, tiny, options):
    settings = recipe(dropout=0.1, **options)
    whole = fitted(tmp_path / "whole", settings)
    first = fitted(tmp_path / "parts", recipe(dropout=0.1, epochs=1, **options))
    assert first.epoch == 1
    again = fitted(tmp_path / "parts", settings)
    assert again.history == whole.history
    for name, value in again.finish().state_dict().items():
        torch.testing.assert_close(value, whole.finish().state_dict()[name], rtol=0, atol=0)


def test_a_longer_run_serves_a_shorter_one_only_if_its_best_is_in_it(tmp_path, tiny):
    long, short = recipe(epochs=4, learning_rate=0.1), recipe(epochs=2, learning_rate=0.1)
    alone = fitted(tmp_path / "alone", short)
    fitted(tmp_path / "both", long)
    path, = (tmp_path / "both/states").iterdir()
    for best_epoch in (1, 3):
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            notes = json.loads(file.metadata()["notes"])
        notes["best_epoch"] = best_epoch
        save_file(tensors, path, {"notes": json.dumps(notes)})
        said = []
        found = training.fit("bundled", short, Phantom(), few(), tmp_path / "both", say=said.append)
        assert found.history == alone.history
        assert (said[0] == "going on after epoch 4") == (best_epoch == 1)


def test_patches_are_left_out_and_the_class_token_is_not():
    tokens = torch.arange(2 * 11 * 3.0).view(2, 11, 3)
    assert training.thinned(tokens, 0.0) is tokens
    torch.manual_seed(0)
    counts = set()
    for _ in range(200):
        left = training.thinned(tokens, 0.5)
        torch.testing.assert_close(left[:, 0], tokens[:, 0], rtol=0, atol=0)
        numbers = (left[0, 1:, 0] / 3).long()
        assert len(set(numbers.tolist())) == len(numbers)
        torch.testing.assert_close(left, tokens[:, [0, *numbers]], rtol=0, atol=0)
        counts.add(len(numbers))
    assert counts == {5, 6, 7, 8, 9, 10}


def test_what_is_kept_is_the_running_mean_of_the_weights(tmp_path, tiny):
    settings = recipe(average=0.75)
    trainer = Trainer(tiny("bundled", settings), Data.of(few(), settings, tmp_path), settings)
    trainer.network.load(Phantom(), few(), 2, tmp_path)
    slow = trainer._weights()
    for rows in (trainer.data.rows("train")[:4], trainer.data.rows("train")[4:]):
        trainer.step(rows, np.zeros(len(rows), int))
        slow = {name: 0.75 * value + 0.25 * trainer.parameters[name].detach()
                for name, value in slow.items()}
    for name, value in slow.items():
        torch.testing.assert_close(trainer.mean[name], value)
    with trainer.holding(trainer.mean):
        torch.testing.assert_close(trainer.parameters["norm.weight"].data, slow["norm.weight"])
        mean = trainer.predict(trainer.data.rows("val"))
    assert not torch.equal(mean, trainer.predict(trainer.data.rows("val")))


@pytest.mark.parametrize("task", training.TASKS)
def test_side_outputs_are_learnt_and_left_behind(tmp_path, tiny, task):
    settings = recipe(task=task, side_task="shape")
    data, count = Data.of(few(), settings, tmp_path), len(training.TASKS[task])
    np.testing.assert_array_equal(data.side[3], baselines.shape_features(agreement(few()[3])))
    train = data.rows("train")
    np.testing.assert_allclose(data.scaled_side[train].mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(data.scaled_side[train].std(0), 1)
    trainer = Trainer(tiny("bundled", settings), data, settings)
    trainer.network.load(Phantom(), few(), 2, tmp_path)
    views = np.zeros(len(train), int)
    with torch.no_grad():
        found = trainer.network.outputs(trainer.network.inputs(train, views))
    assert found.shape[1] == count + 8
    true = data.targets[train] if task == "malignancy" else (
        data.targets[train] - data.scale[0]) / data.scale[1]
    own = (np.logaddexp(0, np.where(true[:, 0] > 0, -1, 1) * found[:, 1].numpy())
           if task == "malignancy" else (found[:, :count].numpy() - true) ** 2)
    side = (found[:, count:].numpy() - data.scaled_side[train]) ** 2
    assert trainer.step(train, views) == pytest.approx(own.mean() + side.mean(), rel=1e-5)
    finished = fitted(tmp_path, settings).finish()
    assert finished.head.weight.shape[0] == finished.num_classes == count


def test_other_starting_weights_begin_anew(tmp_path, tiny, monkeypatch):
    first = fitted(tmp_path, recipe(epochs=1))
    for name in ("start_sha256", "backbone_sha256"):
        def other(backbone, settings, name=name):
            network = tiny(backbone, settings)
            setattr(network, name, "other")
            return network

        monkeypatch.setattr(training, "new_network", other)
        said = []
        training.fit("bundled", recipe(epochs=1), Phantom(), few(), tmp_path, say=said.append)
        assert not any("going on" in line for line in said)
    assert len(list((tmp_path / "states").iterdir())) == 3
    monkeypatch.setattr(training, "new_network", tiny)
    assert fitted(tmp_path, recipe(epochs=1)).history == first.history


def test_the_bundled_start_is_told_by_the_scenes_weights():
    network = training.LateNetwork(Settings(), 2)
    weights = (assets_dir() / "models" / "scenes.safetensors").read_bytes()
    assert network.start_sha256 == hashlib.sha256(weights).hexdigest()
    assert network.start_sha256 != network.backbone_sha256


def test_outputs_are_in_real_units(tmp_path, tiny):
    for task in training.TASKS:
        trainer = fitted(tmp_path, recipe(task=task))
        found, true = training.predictions(trainer, "test")
        module, rows = trainer.finish(), trainer.data.rows("test")
        with torch.no_grad():
            tokens = trainer.network.inputs(rows, np.zeros(len(rows), int))
            direct = module.class_row(tokens)[0].double().numpy()
        if task == "malignancy":
            np.testing.assert_allclose(direct[:, 1:], found, atol=1e-5)
            np.testing.assert_allclose(direct[:, 0], -direct[:, 1], atol=1e-5)
            assert set(true[:, 0]) == {0, 1}
        else:
            np.testing.assert_allclose(direct, found, rtol=1e-4, atol=1e-4)
            nodule = trainer.data.nodules[rows[0]]
            assert dict(zip(BIOMARKERS, true[0], strict=True)) == dict(nodule.biomarkers)


def test_nobody_to_measure_on_is_refused(tmp_path, tiny):
    ids = set(load_split().train)
    with pytest.raises(BadScan, match="val part"):
        fitted(tmp_path, recipe(), tuple(n for n in few() if n.id in ids))


@pytest.mark.parametrize("architecture", [LateClassTokenViT, OwnClassTokenViT])
def test_the_short_way_to_the_class_row_is_that_of_the_whole_block(architecture):
    """Also with the backbone's own class token, whose query is another one for every image."""
    torch.manual_seed(3)
    module = architecture(5, trained_blocks=1, **TINY).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pixels = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        tokens = module.backbone_tokens(pixels)
        short, whole = module.class_row(tokens)[0], module(pixels)
        changed = tokens.clone()
        changed[:, 0, 0] += 5  # a norm follows, which would undo a shift of all
        reads_own_token = not torch.allclose(module.class_row(changed)[0], short)
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-4)
    assert reads_own_token == (architecture is OwnClassTokenViT)


# ---- the command ---------------------------------------------------------------------------------

def test_two_epochs_of_the_command_give_a_model_that_explains(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "load_nodules", lambda: few(1))
    monkeypatch.setattr(training.os, "nice", lambda value: 0)
    monkeypatch.setattr(training, "make_split", lambda *_: load_split())
    command = ["train", "nodules", "--epochs", "2", "--batch", "2", "--views", "1", "--side", "56",
               "--dropout", "0", "0.05", "--trainable-layers", "25", "--side-task", "shape",
               "--token-dropout", "0.3", "--average", "0.5", "--work", str(tmp_path), "--out",
               str(tmp_path / "small.json"), "--table", str(tmp_path / "sweep.csv")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "validation_loss" in printed
    assert "nobody's nodules" in printed
    card = json.loads((tmp_path / "small.json").read_text("utf-8"))
    assert card["simulated"] is True
    assert [row["dropout"] for row in card["sweep"]] == [0.0, 0.05]
    assert len(card["curves"]["train_and_validation_loss"]) == 2
    assert card["banner"].startswith("Simulated CT.")
    assert card["trained_layers"] == 25
    scenes = (assets_dir() / "models" / "scenes.safetensors").read_bytes()
    assert card["started_from_sha256"] == hashlib.sha256(scenes).hexdigest()
    assert "numbers, not places" in card["learnt_besides"].lower()
    table = list(csv.DictReader((tmp_path / "sweep.csv").read_text("utf-8").splitlines()))
    for line, row in zip(table, card["sweep"], strict=True):
        assert float(line["validation_loss"]) == row["validation_loss"]
        assert [float(line[f"auc{part}"]) for part in ("", " low", " high")] == [
            row["auc"]["value"], *row["auc"]["interval"]]
    trained = load_file(tmp_path / "small.safetensors")
    assert {name for name in trained if name.startswith("blocks.8.")} == {
        "blocks.8.ls2.gamma", "blocks.8.mlp.fc1.bias", "blocks.8.mlp.fc1.weight",
        "blocks.8.mlp.fc2.bias", "blocks.8.mlp.fc2.weight", "blocks.8.norm2.bias"}
    model = cdam.load_model(tmp_path / "small.json")
    for name in trained:
        torch.testing.assert_close(model.module.state_dict()[name], trained[name].float())
    e = cdam.explain(model, to_image(Phantom().crop(load_nodules()[0])), ["malignant", "benign"])
    np.testing.assert_allclose(e.scores[0], -e.scores[1], atol=1e-6)
    assert e.values[0] == pytest.approx(-e.values[1], abs=1e-5)


def test_a_backbone_of_timm_is_trained_whole(tmp_path, monkeypatch):
    """A ViT-S/8 in DINO's architecture, made tiny; its weights would come from the hub."""
    module = timm.create_model("vit_small_patch8_224", img_size=32, embed_dim=24, num_heads=3,
                               depth=2, num_classes=0)
    module.pretrained_cfg = {}  # by its name, a file of it would be read as the full architecture
    monkeypatch.setattr(training, "load_model", lambda name: cdam.wrap(module))
    monkeypatch.setattr(training, "load_nodules", lambda: few(1))
    monkeypatch.setattr(training.os, "nice", lambda value: 0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert main(["train", "nodules", "--backbone", "timm:vit_small_patch8_224.dino", "--epochs",
                 "1", "--batch", "2", "--views", "2", "--trainable-layers", "10", "--work",
                 str(tmp_path), "--out", str(tmp_path / "dino.safetensors")]) == 0
    model = cdam.load_model(tmp_path / "dino.safetensors")
    assert model.class_names == ["benign", "malignant"]
    changed = [name for name, value in model.module.state_dict().items()
               if name in before and not torch.equal(value, before[name])]
    names = layers_from_head(model.module)[:10]
    assert set(changed) <= set(names)
    assert len(changed) >= 6
    for name, value in before.items():  # the backbone that was given is not touched
        assert torch.equal(module.state_dict()[name], value)


@pytest.mark.parametrize("wrong", [
    ["--epochs", "0"], ["--learning-rate", "-1"], ["--dropout", "1"], ["--source", "dicom"],
    ["--trainable-layers", "-2"], ["--token-dropout", "1"], ["--average", "-0.1"],
    ["--task", "biomarkers", "--side-task", "ratings"],
    ["--backbone", "timm:vit_small_patch8_224.dino", "--token-dropout", "0.5"],
    ["--out", "model.pt"], ["--seed", "-1"],
])
def test_wrong_arguments_end_with_one_line(wrong, capsys):
    assert main(["train", "nodules", *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_side_that_does_not_fit_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training.os, "nice", lambda value: 0)
    assert main(["train", "nodules", "--side", "100", "--work", str(tmp_path)]) == 2
    assert "multiple of 14" in capsys.readouterr().err
