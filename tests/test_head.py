"""The linear head: against scikit-learn, resumable to the bit, and back through load_model."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.layers import SwiGLUPacked
from torch import nn
from torchvision import transforms

import cdam_core as cdam
from cdam_core import catalogue, training_head
from cdam_core import head as heads
from cdam_core.__main__ import main
from cdam_core.training_head import Settings, read_folder, train
from tests import zoo
from tests.test_checkpoints import state_of, vit

FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny random backbone in a file."""
    path = tmp_path_factory.mktemp("backbone") / "tiny.pth"
    torch.save(state_of(vit(num_classes=0)), path)
    return path


def write_pictures(folder, images, labels, names):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / names[label] / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def colours(n_each, seed=0):
    """Noise around three colours: something that any head learns."""
    draw = np.random.default_rng(seed)
    labels = np.arange(3).repeat(n_each)
    base = np.eye(3)[labels][:, None, None] * 120 + 60
    noise = draw.normal(0, 40, (3 * n_each, 40, 48, 3))
    return (base + noise).clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def folder(tmp_path):
    """Thirty pictures of three classes."""
    write_pictures(tmp_path / "data", *colours(10), ["blue", "green", "red"])
    return tmp_path / "data"


# ---- fitting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_the_regression_is_scikit_learns(strength):
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 300)
    x = draw.normal(0, 3, (300, 7)) + np.eye(4, 7)[labels] * 4 + 10
    x[:, 6] = 5.0  # a feature that never moves
    regression = LogisticRegression(C=strength, tol=1e-9, max_iter=5000)
    theirs = make_pipeline(StandardScaler(), regression).fit(x, labels)
    ours = heads.fit_head(torch.from_numpy(x), torch.from_numpy(labels), 4, strength, steps=2000)
    logits = x @ ours.weight.double().numpy().T + ours.bias.double().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(p, theirs.predict_proba(x), atol=2e-3)


def test_fitting_in_chunks_changes_nothing(monkeypatch):
    x, y = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    whole = heads.fit_head(x, y, 3)
    monkeypatch.setattr(heads, "ROWS_AT_ONCE", 7)
    parts = heads.fit_head(x, y, 3)
    torch.testing.assert_close(whole.weight, parts.weight, rtol=1e-3, atol=1e-3)
    assert torch.equal(whole.predict(x), parts.predict(x))


@pytest.mark.parametrize(("n", "classes", "strength"), [(5, 1, 1.0), (0, 3, 1.0), (5, 2, 0.0)])
def test_what_cannot_be_fitted(n, classes, strength):
    with pytest.raises(cdam.BadTarget) as error:
        heads.fit_head(torch.zeros(n, 4), torch.zeros(n, dtype=torch.long), classes, strength)
    assert error.value.reason == "bad-setting"


# ---- measuring -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (7, 10), (10, 10), (770, 1000)])
def test_the_interval_is_wilsons(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert heads.wilson_interval(correct, n) == pytest.approx((expected.low, expected.high))


def test_the_worst_classes_and_what_they_are_taken_for():
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 5)
    predicted = torch.tensor([0] * 7 + [1, 1, 2] + [2, 2, 1, 0] + [2] * 5)
    found = heads.evaluate(predicted, labels, ["ant", "bee", "cat"])
    assert found.top1 == pytest.approx(13 / 19)
    assert [(row["name"], row["right"], row["n"]) for row in found.worst] == [
        ("bee", 0.25, 4), ("ant", 0.7, 10)
    ]  # fmt: skip
    assert (found.worst[0]["taken_for"], found.worst[0]["taken"]) == ("cat", 2)
    assert "bee: 25% of 4 right, taken for cat 2 times" in found.lines()[1]


# ---- data ----------------------------------------------------------------------------------------


def test_the_split_is_seeded_and_keeps_every_class(folder):
    one, two, other = (read_folder(folder, 0.2, seed) for seed in (0, 0, 1))
    assert one == two
    assert one.val != other.val
    assert one.class_names == ("blue", "green", "red")
    assert [label for _, label in one.val] == [0, 0, 1, 1, 2, 2]
    assert not {path for path, _ in one.train} & {path for path, _ in one.val}
    assert len(one.train) == 24


def test_train_and_val_folders_are_taken_as_they_are(tmp_path):
    write_pictures(tmp_path / "train", *colours(3), ["blue", "green", "red"])
    write_pictures(tmp_path / "val", *colours(2), ["blue", "green", "red"])
    data = read_folder(tmp_path)
    assert (len(data.train), len(data.val)) == (9, 6)
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "violet")
    with pytest.raises(cdam.BadImage, match="train does not have"):
        read_folder(tmp_path)


def test_the_cuts_are_the_papers():
    training, measuring = training_head.training_cut((224, 224)), \
        training_head.measuring_cut((224, 224))  # fmt: skip
    assert repr(training) == repr(transforms.Compose(
        [transforms.RandomResizedCrop((224, 224)), transforms.RandomHorizontalFlip()]))
    assert repr(measuring) == repr(transforms.Compose([
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop((224, 224))]))  # fmt: skip
    assert Settings() == Settings(epochs=10, batch=128, learning_rate=3e-4)


# ---- the paper's recipe --------------------------------------------------------------------------


def test_a_step_is_that_of_a_linear_layer_under_adam(backbone, folder, tmp_path):
    """Three steps against torch's own layer, loss and backward pass."""
    model, data = cdam.load_model(backbone), read_folder(folder)
    job = training_head.Job(model, data, Settings(), tmp_path)
    trainer = training_head.Trainer(job)
    layer = nn.Linear(128, 3)
    layer.load_state_dict({k: v.detach().clone() for k, v in trainer.parameters.items()})
    adam = torch.optim.Adam(layer.parameters(), lr=3e-4)
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        x, y = torch.randn(8, 128, generator=draw), torch.randint(3, (8,), generator=draw)
        trainer.step(x, y)
        adam.zero_grad()
        nn.CrossEntropyLoss()(layer(x), y).backward()
        adam.step()
    torch.testing.assert_close(trainer.head.weight, layer.weight.detach(), rtol=1e-5, atol=1e-7)


def head_of(path):
    with safe_open(path, "pt") as file:
        return file.get_tensor("head.weight"), json.loads(file.metadata()["card"])


def test_a_stopped_run_ends_with_the_same_head(backbone, folder, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the middle of the second epoch, then the same command again."""
    settings = Settings(epochs=3, batch=5, learning_rate=0.01)
    train(str(backbone), folder, tmp_path / "whole.safetensors", settings)
    real, taken = training_head.Trainer.step, []

    def stop(trainer, *batch):
        taken.append(1)
        if len(taken) == 8:
            raise KeyboardInterrupt
        real(trainer, *batch)

    monkeypatch.setattr(training_head.Trainer, "step", stop)
    out = tmp_path / "stopped.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(str(backbone), folder, out, settings)
    assert not out.exists()
    capsys.readouterr()
    train(str(backbone), folder, out, settings)
    assert "going on in epoch 2, batch 3" in capsys.readouterr().out
    assert torch.equal(head_of(out)[0], head_of(tmp_path / "whole.safetensors")[0])
    assert len(taken) == 7 + 1 + 8
    assert not list(tmp_path.glob("*.work"))


def test_the_augmentation_follows_from_the_seed_alone(folder):
    """The same picture is cut alike in any order, and otherwise in another epoch."""
    items = read_folder(folder).train
    state = torch.get_rng_state()

    def cut(order, epoch):
        chosen = [items[i] for i in order]
        pictures = training_head.Pictures(chosen, order, (32, 32), True, 0, epoch)
        return {number: pixels for pixels, _, number in (pictures[i] for i in range(len(order)))}

    forward, backward, later = cut([0, 1, 2], 0), cut([2, 1, 0], 0), cut([0, 1, 2], 1)
    assert all(torch.equal(forward[i], backward[i]) for i in range(3))
    assert not any(torch.equal(forward[i], later[i]) for i in range(3))
    assert not torch.equal(forward[0], forward[1])
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_it_learns_colours_and_the_file_loads(backbone, folder, tmp_path, capsys):
    out = tmp_path / "new" / "head.safetensors"
    assert main(["train", "head", "--backbone", str(backbone), "--data", str(folder), "--out",
                 str(out), "--epochs", "6", "--learning-rate", "0.03",
                 "--batch", "8"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "epoch 6: top-1" in printed
    assert "95 % interval" in printed
    model = cdam.load_model(out)
    assert model.class_names == ["blue", "green", "red"]
    assert model.id.startswith("head-")
    _, card = head_of(out)
    assert card["quality"]["top1"] >= 0.8
    assert card["recipe"] == "paper (augmented)"
    assert str(tmp_path) not in json.dumps(card)
    red = Image.new("RGB", (60, 60), (180, 60, 60))
    assert cdam.explain(model, red, "blue").scores.shape == (1, 4, 4)


# ---- cached embeddings ---------------------------------------------------------------------------


def frozen_features(backbone, paths):
    """Embeddings by another way: torchvision's own tensors and the module's own forward."""
    cut = transforms.Compose([
        transforms.Resize(round(32 * 256 / 224), transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(32), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    module = vit(num_classes=0)
    module.load_state_dict(torch.load(backbone, weights_only=True))
    pixels = torch.stack([cut(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        return module(pixels).numpy()


def assert_reaches_scikit_learn(backbone, folder, out):
    """The command's top-1 and that of a logistic regression lie in each other's intervals."""
    found = train(str(backbone), folder, out, Settings(), cache=True)
    data = read_folder(folder)
    x, val = (frozen_features(backbone, [p for p, _ in part]) for part in (data.train, data.val))
    y, val_y = (np.array([label for _, label in part]) for part in (data.train, data.val))
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(x, y)
    top1 = float((theirs.predict(val) == val_y).mean())
    low, high = found.interval
    assert low <= top1 <= high
    assert abs(top1 - found.top1) < 0.02
    return found.top1, top1


def test_cached_embeddings_reach_scikit_learn_on_digits(backbone, tmp_path):
    """Handwritten digits that ship with scikit-learn: a real data set without a download."""
    digits = load_digits()
    images = [np.kron(image, np.ones((4, 4))) * 15 for image in digits.images[:500]]
    images = [image.astype(np.uint8) for image in images]
    write_pictures(tmp_path / "data", images, digits.target[:500], [str(i) for i in range(10)])
    ours, _ = assert_reaches_scikit_learn(backbone, tmp_path / "data", tmp_path / "m.safetensors")
    assert ours > 0.6  # chance is 0.1


@pytest.mark.data
def test_cached_embeddings_reach_scikit_learn_on_clothes(backbone, tmp_path):
    assert FASHION.is_dir(), "install Debian's package dataset-fashion-mnist first"

    def read(name, offset, shape):
        with gzip.open(FASHION / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset).reshape(shape)[:1200]

    images = read("train-images-idx3-ubyte.gz", 16, (-1, 28, 28))
    labels = read("train-labels-idx1-ubyte.gz", 8, (-1,))
    write_pictures(tmp_path / "data", images, labels, [str(i) for i in range(10)])
    ours, _ = assert_reaches_scikit_learn(backbone, tmp_path / "data", tmp_path / "m.safetensors")
    assert ours > 0.6


def test_cached_embeddings_go_on_where_they_stopped(backbone, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(training_head, "SHARD", 7)
    real, asked = training_head._embed_shard, []

    def stop(job, part, numbers):
        asked.append((part, numbers.start))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(job, part, numbers)

    monkeypatch.setattr(training_head, "_embed_shard", stop)
    out = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(str(backbone), folder, out, Settings(), cache=True)
    train(str(backbone), folder, out, Settings(), cache=True)
    assert asked == [("val", 0), ("train", 0), *[("train", i) for i in (7, 7, 14, 21)]]
    assert cdam.load_model(out).class_names == ["blue", "green", "red"]


def test_broken_pictures_are_reported_and_left_out(backbone, folder, tmp_path, capsys):
    pictures = sorted((folder / "red").iterdir())
    pictures[0].write_bytes(b"")
    pictures[5].write_bytes(pictures[5].read_bytes()[:60])
    for cache in (True, False):
        out = tmp_path / f"{cache}.safetensors"
        train(str(backbone), folder, out, Settings(epochs=2, batch=4), cache=cache)
        printed = capsys.readouterr().out
        assert printed.count(pictures[0].name) == 1
        assert "left out (empty)" in printed
        assert sum(head_of(out)[1]["left_out"].values()) == 2


@pytest.mark.slow
def test_a_head_on_a_bundled_model_is_a_card(tmp_path):
    """The late class token's architecture: a card, the trained weights, the shared backbone."""
    write_pictures(tmp_path / "data", *colours(3), ["blue", "green", "red"])
    out = tmp_path / "colours.json"
    train("scenes", tmp_path / "data", out, Settings(val_share=0.3), cache=True)
    model = cdam.load_model(out)
    assert model.class_names == ["blue", "green", "red"]
    assert not model.simulated
    assert model.closed_form
    assert sorted(p.name for p in tmp_path.iterdir()) == ["colours.json", "colours.safetensors",
                                                          "data"]  # fmt: skip


# ---- attaching and writing -----------------------------------------------------------------------


def test_a_head_is_attached_without_touching_the_model(backbone):
    model = cdam.load_model(backbone)
    draw = torch.Generator().manual_seed(0)
    head = heads.LinearHead(torch.randn(2, 128, generator=draw), torch.randn(2, generator=draw))
    pixels = torch.randn(1, 3, 32, 32, generator=draw)
    taught = heads.with_head(model, head, ["a", "b"])
    expected = model.embed(pixels) @ head.weight.T + head.bias
    torch.testing.assert_close(taught.logits(taught.encode(pixels)), expected[0])
    assert model.class_names == []
    assert cdam.explain(taught, pixels, cdam.Contrast("a", "b")).scores.any()


@pytest.mark.parametrize("extra", [
    {"reg_tokens": 2, "no_embed_class": True, "init_values": 1.0}, {"num_heads": 8},
    {"qk_norm": True, "num_heads": 4},
    {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU},
], ids=str)  # fmt: skip
def test_every_kind_of_backbone_comes_back_from_the_file(extra, tmp_path):
    model = cdam.wrap(vit(**extra))
    head = heads.LinearHead(torch.ones(2, 128), torch.zeros(2))
    taught = heads.with_head(model, head, ["a", "b"], "mine")
    heads.save_model(tmp_path / "m.safetensors", taught, {})
    again = cdam.load_model(tmp_path / "m.safetensors")
    assert (again.id, again.weights_sha256) == ("mine", taught.weights_sha256)


@pytest.mark.parametrize(("name", "pool"), [
    ("xcit_nano_12_p16_224", None), ("pit_ti_224", None), ("vit_small_patch16_dinov3", "token"),
    ("vit_small_patch16_dinov3", "avg"),
])  # fmt: skip
def test_heads_on_other_families_come_back_from_the_file(name, pool, tmp_path):
    """How the answer is read is kept, too: a class token on demand stays one."""
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=0)
    model = cdam.wrap(module, pool=pool)
    pixels = torch.randn(1, 3, *model.input_size)
    latent = model.embed(pixels)
    head = heads.LinearHead(torch.randn(3, latent.shape[1]), torch.randn(3))
    mine = heads.with_head(model, head, ["a", "b", "c"], "mine")
    expected = latent[0] @ head.weight.T + head.bias
    torch.testing.assert_close(mine.logits(mine.encode(pixels)), expected, rtol=1e-4, atol=1e-4)
    path = tmp_path / "mine.safetensors"
    heads.save_model(path, mine, {"recipe": "none"})
    again = cdam.load_model(path)
    assert again.pool == (pool or "token")
    assert again.class_names == ["a", "b", "c"]
    torch.testing.assert_close(again.logits(again.encode(pixels)), expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_also_scores_its_patches_takes_no_head():
    model = cdam.wrap(zoo.shrunk("volo_d1_224"), input_size=(64, 64))
    head = heads.LinearHead(torch.zeros(2, 32), torch.zeros(2))
    with pytest.raises(cdam.BadCheckpoint, match="not one linear layer"):
        heads.with_head(model, head, ["a", "b"])


def test_a_file_that_would_not_come_back_is_an_error(tmp_path):
    """A norm before the blocks cannot be read from tensors, and this module has no name."""
    taught = heads.with_head(cdam.wrap(vit(pre_norm=True)),
                             heads.LinearHead(torch.ones(2, 128), torch.zeros(2)), ["a", "b"])
    with pytest.raises(cdam.BadCheckpoint):
        heads.save_model(tmp_path / "m.safetensors", taught, {})


# ---- wrong use -----------------------------------------------------------------------------------


def command(backbone, folder, out, *more):
    return main(["train", "head", "--backbone", str(backbone), "--data", str(folder), "--out",
                 str(out), "--cache", *more])  # fmt: skip


@pytest.mark.parametrize(("more", "sentence"), [
    (["--epochs", "0"], "out of range"), (["--val-share", "1"], "out of range"),
    (["--strength", "-1"], "out of range"), (["--out", "head.pth"], "ending in .safetensors"),
    (["--backbone", "nowhere.pth"], "No such model"), (["--data", "nowhere"], "no such folder"),
], ids=str)  # fmt: skip
def test_wrong_use_is_one_line_and_writes_nothing(backbone, folder, tmp_path, capsys, monkeypatch,
                                                  more, sentence):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert command(backbone, folder, tmp_path / "m.safetensors", *more) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_folders_that_are_no_data(tmp_path):
    for n, sentence in ((0, "0 class folders"), (1, "1 class folders")):
        if n:
            write_pictures(tmp_path, colours(2)[0], [0] * 6, ["only"])
        with pytest.raises(cdam.BadImage, match=sentence):
            read_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(cdam.BadImage, match="1 of 2 class folders hold no pictures"):
        read_folder(tmp_path)
    write_pictures(tmp_path, colours(1)[0][:1], [0], ["empty"])
    with pytest.raises(cdam.BadImage, match="too few pictures"):
        read_folder(tmp_path)


def test_a_finished_file_and_other_peoples_work_are_kept(backbone, folder, tmp_path, capsys,
                                                         monkeypatch):  # fmt: skip
    out = tmp_path / "m.safetensors"
    assert command(backbone, folder, out) == 0
    stamp = out.stat().st_mtime_ns
    assert command(backbone, folder, out) == 2
    assert "--again to overwrite" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == stamp
    monkeypatch.setattr(training_head, "train_cached", lambda job: (_ for _ in ()).throw(OSError()))
    assert command(backbone, folder, tmp_path / "n.safetensors") == 2
    assert command(backbone, folder, tmp_path / "n.safetensors", "--seed", "1") == 2
    assert "Unfinished work of another" in capsys.readouterr().err
    monkeypatch.undo()
    assert command(backbone, folder, tmp_path / "n.safetensors", "--seed", "1", "--again") == 0


def test_distilled_models_and_a_missing_torchvision(backbone, folder, tmp_path, monkeypatch):
    from tests.conftest import tiny_distilled_vit

    with pytest.raises(cdam.BadCheckpoint, match="one linear layer"):
        heads.require_linear_place(cdam.wrap(tiny_distilled_vit()))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(cdam.BadTarget, match="pip install torchvision"):
        train(str(backbone), folder, tmp_path / "m.safetensors", Settings())


def test_metadata_of_a_foreign_head_file_is_not_needed(backbone, tmp_path):
    """Tensors alone are enough for an ordinary width; only the names of the classes are lost."""
    model = heads.with_head(cdam.load_model(backbone),
                            heads.LinearHead(torch.ones(2, 128), torch.zeros(2)), ["a", "b"])
    save_file(state_of(model.module), tmp_path / "bare.safetensors")
    assert cdam.load_model(tmp_path / "bare.safetensors").class_names == ["class 0", "class 1"]


# ---- taught from examples ------------------------------------------------------------------------


def examples_of(n_each, seed=0):
    pictures, labels = colours(n_each, seed)
    names = ["red", "green", "blue"]
    return {name: [Image.fromarray(p) for p, label in zip(pictures, labels, strict=True)
                   if label == index] for index, name in enumerate(names)}  # fmt: skip


def test_a_few_examples_make_classes_that_can_be_explained(backbone, tmp_path):
    """The head is the regression on the embeddings; each picture is judged by the others."""
    model, examples = cdam.load_model(backbone), examples_of(4)
    seen = []
    taught, quality = heads.teach(model, examples, on_picture=lambda *done: seen.append(done))
    assert seen == [(i, 12) for i in range(1, 13)]
    assert taught.class_names == ["red", "green", "blue"]
    pictures = [picture for each in examples.values() for picture in each]
    x = torch.cat([model.embed(model.preprocess(picture)) for picture in pictures])
    y = np.arange(3).repeat(4)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000)).fit(x, y)
    ours = [taught.logits(taught.encode(taught.preprocess(p))) for p in pictures]
    np.testing.assert_allclose(torch.stack(ours).softmax(1), theirs.predict_proba(x), atol=2e-3)
    right = 0
    for fold in range(4):  # four pictures each, so four parts
        out = np.arange(12) % 4 == fold
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
        right += int((fitted.fit(x[~out], y[~out]).predict(x[out]) == y[out]).sum())
    assert (quality.n, quality.top1) == (12, right / 12)
    e = cdam.explain(taught, pictures[0], cdam.Contrast("red", "blue"))
    assert np.abs(e.scores).max() > 0
    heads.save_model(tmp_path / "mine.safetensors", taught, heads.as_card(quality, n=12))
    assert cdam.load_model(tmp_path / "mine.safetensors").class_names == taught.class_names


@pytest.mark.parametrize("counts", [(), (3,), (3, 1), (0, 0)])
def test_too_few_examples_are_refused(backbone, counts):
    model = cdam.load_model(backbone)
    examples = {str(i): [Image.new("RGB", (40, 40))] * n for i, n in enumerate(counts)}
    with pytest.raises(cdam.BadTarget, match="two pictures or more"):
        heads.teach(model, examples)


@pytest.fixture(scope="module")
def late():
    """The bundled model under a small head of random weights, and its file."""
    draw = torch.Generator().manual_seed(3)
    head = heads.LinearHead(torch.randn(2, 384, generator=draw), torch.zeros(2))
    taught = heads.with_head(cdam.load_model("scenes"), head, ["é 0", "é 1"])
    return taught, heads.to_bytes(taught, {"n": 7})


def test_one_file_on_a_bundled_model_comes_back_whole(late, tmp_path, monkeypatch):
    """The file holds the trained part and its card; the same numbers come back from it."""
    (taught, content), path = late, tmp_path / "mine.safetensors"
    path.write_bytes(content)
    assert path.stat().st_size < 10 * 2**20  # no second copy of the backbone
    model = cdam.load_model(path)
    assert (model.class_names, model.id) == (["é 0", "é 1"], "custom")
    assert model.input_size == taught.input_size
    assert model.weights_sha256 == taught.weights_sha256
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.logits(model.encode(pixels)),
                               taught.logits(taught.encode(pixels)))  # fmt: skip
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["card"]) == {"n": 7}
    monkeypatch.setenv("CDAM_MODELS", str(tmp_path))
    entry = next(each for each in catalogue.offered() if each.source == path.name)
    assert "2 classes" in entry.text
    assert cdam.load_model(entry.source).class_names == model.class_names


@pytest.mark.parametrize(("name", "value", "reason", "sentence"), [
    ("weights_sha256", '"' + "0" * 64 + '"', "mismatch", "another backbone"),
    ("trained_blocks", "1000000", "damaged", "trained_blocks"),
    ("trained_blocks", '"../x"', "damaged", "trained_blocks"),
    ("trained_blocks", "2", "mismatch", "do not fit"),
    ("class_names", "7", "damaged", "class_names"),
    ("class_names", '["only"]', "mismatch", "do not fit"),
    ("mean", None, "damaged", "lacks the entry mean"),
], ids=str)  # fmt: skip
def test_a_changed_file_on_a_bundled_model_is_refused(
    late, tmp_path, name, value, reason, sentence
):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(late[1])
    with safe_open(path, "pt") as file:
        state, entries = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    changed = {k: v for k, v in (entries | {name: value}).items() if v is not None}
    save_file(state, path, changed)
    with pytest.raises(cdam.BadCheckpoint, match=sentence) as caught:
        cdam.load_model(path)
    assert caught.value.reason == reason


def test_embedded_examples_give_the_head_that_their_pictures_give(backbone):
    model, examples = cdam.load_model(backbone), examples_of(4)
    embedded = {name: np.concatenate([model.embed(model.preprocess(p)).numpy() for p in pictures])
                for name, pictures in examples.items()}  # fmt: skip
    seen = []
    taught, quality = heads.teach_embedded(model, embedded, on_fit=lambda *done: seen.append(done))
    expected, expected_quality = heads.teach(model, examples)
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5)]
    assert taught.weights_sha256 == expected.weights_sha256
    assert quality == expected_quality


def test_a_head_taught_at_another_size_comes_back_at_that_size(tmp_path):
    """Embeddings depend on the size, so the head is of use at the one it was taught at only."""
    larger = cdam.wrap(timm.create_model("test_vit", dynamic_img_size=True)).at_size((192, 192))
    assert larger.input_size != cdam.wrap(timm.create_model("test_vit")).input_size
    head = heads.LinearHead(torch.ones(2, 64), torch.zeros(2))
    taught = heads.with_head(larger, head, ["a", "b"])
    path = tmp_path / "mine.safetensors"
    path.write_bytes(heads.to_bytes(taught, {}))
    assert cdam.load_model(path).input_size == (192, 192)
    with safe_open(path, "pt") as file:
        state, entries = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(state, path, entries | {"used_size": "[7, 7]"})
    with pytest.raises(cdam.BadCheckpoint, match="impossible size"):
        cdam.load_model(path)
