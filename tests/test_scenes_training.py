"""Training the late block: the cheap step equals the full one, and a run can be resumed."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cdam_core.assets import assets_dir
from cdam_core.late_vit import LateClassTokenViT
from cdam_core.scenes import card as cards
from cdam_core.scenes import training
from cdam_core.scenes.classes import CLASS_NAMES
from cdam_core.scenes.generator import MixedScenes, Scene
from cdam_core.scenes.tokens import TokenStore, produce, to_labels, to_pixels
from cdam_core.scenes.training import Settings, Trainer

TINY = {"backbone_depth": 2, "img_size": 56, "embed_dim": 24, "num_heads": 3}
N_TOKENS = 17


def tiny(trained_blocks=1, seed=0):
    torch.manual_seed(seed)
    model = LateClassTokenViT(len(CLASS_NAMES), trained_blocks=trained_blocks, **TINY)
    torch.nn.init.normal_(model.late_cls_token)
    return model.eval()


def store(folder, count=64, dim=24, seed=0):
    """Tokens in which the class of a scene is plain to see."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(count, N_TOKENS, dim)).astype(np.float32)
    labels = np.zeros((count, len(CLASS_NAMES)), np.uint8)
    for row in range(count):
        label = row % 4
        labels[row, label] = 1
        tokens[row, 3:6, label] += 6
    made = TokenStore(folder, capacity=count, n_tokens=N_TOKENS, dim=dim)
    made.add(torch.from_numpy(tokens), labels)
    return made


@pytest.mark.parametrize("trained_blocks", [1, 2])
def test_the_cheap_step_equals_the_full_block(trained_blocks):
    model = tiny(trained_blocks).double()
    pixels = torch.randn(3, 3, 42, 56, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.class_row(model.backbone_tokens(pixels))[0],
                                   model(pixels), rtol=1e-10, atol=1e-12)


def test_the_attention_logits_give_the_blocks_attention():
    model = tiny().double()
    tokens = model.backbone_tokens(torch.randn(2, 3, 28, 42, dtype=torch.float64))
    with torch.no_grad():
        block, joined = model.blocks[-1], model.join_class_token(tokens)
        q, k, _ = block.attn.qkv(block.norm1(joined)).view(2, 7, 3, 3, 8).permute(2, 0, 3, 1, 4)
        expected = (q[:, :, :1] @ k.transpose(-1, -2) / 8**0.5).softmax(-1)[:, :, 0]
        found = model.class_row(tokens)[1].softmax(1).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_penalty_is_the_mean_squared_attention_logit():
    model, tokens = tiny(), torch.randn(3, N_TOKENS, 24)
    labels = torch.zeros(3, len(CLASS_NAMES))
    with torch.no_grad():
        plain, with_penalty = (training.loss_of(model, tokens, labels, w) for w in (0.0, 0.7))
        logits = model.class_row(tokens)[1]
    torch.testing.assert_close(with_penalty - plain, 0.7 * (logits**2).mean(), rtol=1e-3, atol=1e-5)


def test_the_cheap_step_has_the_full_blocks_gradients():
    model = tiny(2).double()
    pixels = torch.randn(2, 3, 28, 42, dtype=torch.float64)
    parameters = list(training.trained_parameters(model).values())
    full = torch.autograd.grad(model(pixels).square().sum(), parameters)
    cheap = torch.autograd.grad(
        model.class_row(model.backbone_tokens(pixels))[0].square().sum(), parameters)
    for one, two in zip(full, cheap, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


def test_frozen_and_trained_parts_make_the_whole():
    model = tiny(2)
    frozen, trained = set(model.backbone_state()), set(model.trained_state())
    assert not frozen & trained
    assert frozen | trained == set(model.state_dict())
    assert {"late_cls_token", "late_norm.weight", "head.weight", "norm.weight"} <= trained
    assert {"blocks.1.attn.qkv.weight", "cls_token", "pos_embed"} <= frozen


def test_the_store_keeps_the_newest(tmp_path):
    ring = TokenStore(tmp_path / "ring", capacity=4, n_tokens=3, dim=2)
    for value in range(6):
        ring.add(torch.full((1, 3, 2), float(value)), np.zeros((1, len(CLASS_NAMES)), np.uint8))
    assert (ring.written, len(ring)) == (6, 4)
    assert sorted(TokenStore(tmp_path / "ring").tokens[:, 0, 0].tolist()) == [2, 3, 4, 5]


def test_a_store_of_another_shape_is_refused(tmp_path):
    TokenStore(tmp_path / "ring", capacity=4, n_tokens=3, dim=2)
    with pytest.raises(SystemExit, match="another size"):
        TokenStore(tmp_path / "ring", capacity=4, n_tokens=5, dim=2)


def test_producing_stores_what_the_backbone_says(tmp_path):
    class Fixed:
        def scene(self):
            image = np.full((56, 56, 3), 90, np.uint8)
            return Scene(image, np.ones((56, 56), np.uint8), (3,), ("toy:x",))

    model = tiny()
    ring = TokenStore(tmp_path / "ring", capacity=8, n_tokens=N_TOKENS, dim=24)
    produce(model, Fixed(), ring, total=4, batch=2)
    with torch.no_grad():
        expected = model.backbone_tokens(to_pixels([Fixed().scene().image]))
    torch.testing.assert_close(torch.from_numpy(ring.tokens[2:3]).float(), expected,
                               rtol=2e-3, atol=2e-3)
    assert ring.labels[2].tolist() == to_labels([Fixed().scene()])[0].tolist()
    assert np.flatnonzero(ring.labels[2]).tolist() == [3]


def test_thinning_keeps_the_first_row_and_drops_at_most_the_share():
    tokens = torch.arange(2 * 21.0).view(1, 21, 2)
    for seed in range(20):
        thin = training.thin_out(tokens, np.random.default_rng(seed), 0.5)
        assert thin[0, 0].tolist() == [0.0, 1.0]
        assert 11 <= thin.shape[1] <= 21
        assert thin[0, 1:, 0].diff().min() > 0


def test_joined_scenes_carry_both_labels():
    tokens, labels = torch.randn(4, 9, 2), torch.eye(4)
    joined, both = training.join_scenes(tokens, labels)
    assert both.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]
    assert joined.shape == (2, 1 + 8 + 8, 2)
    torch.testing.assert_close(joined[:, :9], tokens[:2])
    torch.testing.assert_close(joined[:, 9:], tokens[2:, 1:])


def test_a_batch_holds_scenes_of_one_side_and_in_time_of_every_side(tmp_path):
    small, large = store(tmp_path / "small"), TokenStore(tmp_path / "large", 32, 26, 24)
    large.add(torch.zeros(32, 26, 24), np.zeros((32, len(CLASS_NAMES)), np.uint8))
    rng = np.random.default_rng(0)
    rows = [training.draw_batch([small, large], rng, 8)[0].shape[1] for _ in range(200)]
    assert set(rows) == {N_TOKENS, 26}
    assert abs(rows.count(26) / 200 - 1 / 3) < 0.1  # the large store holds a third of the scenes


def test_training_scenes_are_mixed_by_their_share():
    class Source:
        def __init__(self, name):
            self.name = name

        def scene(self):
            return self.name

    mixed = MixedScenes({Source("crowded"): 0.25, Source("plain"): 0.75}, seed=1)
    drawn = [mixed.scene() for _ in range(400)]
    assert abs(drawn.count("plain") / 400 - 0.75) < 0.06
    again = MixedScenes({Source("crowded"): 0.25, Source("plain"): 0.75}, seed=1)
    assert drawn == [again.scene() for _ in range(400)]


def test_training_learns_and_leaves_the_backbone_alone(tmp_path):
    model = tiny()
    before = {name: value.clone() for name, value in model.backbone_state().items()}
    trainer = Trainer(model, Settings(steps=60, batch=32, warmup_steps=5, join_share=0.2,
                                      token_drop=0.2, learning_rate=3e-3),
                      [store(tmp_path / "a"), store(tmp_path / "b", 32, seed=1)])
    tokens, labels = training.draw_batch(trainer.stores, np.random.default_rng(0), 32)
    with torch.no_grad():
        at_start = training.loss_of(model, tokens, labels).item()
    for _ in range(60):
        trainer.step()
    result = trainer.result()
    with torch.no_grad():
        at_end = training.loss_of(result, tokens, labels).item()
    assert at_end < 0.3 * at_start
    for name, value in result.backbone_state().items():
        assert torch.equal(value, before[name]), name


def test_the_same_seed_trains_the_same_weights(tmp_path):
    results = []
    for _ in range(2):
        trainer = Trainer(tiny(), Settings(batch=8), [store(tmp_path / "same")])
        for _ in range(3):
            trainer.step()
        results.append(trainer.result().trained_state())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_run_goes_on_from_the_card_and_its_weights_alone(tmp_path):
    settings = Settings(side=56, batch=8, seed=5)
    model = tiny(seed=1)
    cards.write(tmp_path / "first.json", model, asdict(settings), images_seen=640, steps=10)
    again = tiny(seed=2)
    content = cards.load_trained(tmp_path / "first.json", again)
    assert content["images_seen"] == 640
    for name, value in again.trained_state().items():
        torch.testing.assert_close(value, model.trained_state()[name].half().float(), msg=name)
    trainer = Trainer(again, settings, [store(tmp_path / "tokens")])
    trainer.step()
    assert np.isfinite(trainer.loss)


def test_a_card_without_its_weights_is_one_clear_line(tmp_path):
    cards.write(tmp_path / "m.json", tiny(), asdict(Settings()), 0, 0)
    (tmp_path / "m.safetensors").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match=r"cannot go on from m\.json"):
        cards.load_trained(tmp_path / "m.json", tiny())


def test_weights_of_another_architecture_are_refused(tmp_path):
    cards.write(tmp_path / "m.json", tiny(trained_blocks=2), asdict(Settings()), 0, 0)
    with pytest.raises(SystemExit, match="another architecture"):
        cards.load_trained(tmp_path / "m.json", tiny())


def test_producers_of_a_resumed_run_see_new_scenes():
    first, later = (training.producer_seed(Settings(seed=3), 0, moved) for moved in (0, 5000))
    other = training.producer_seed(Settings(seed=3), 1, 0)
    assert len({first, later, other}) == 3


def test_a_new_model_starts_on_the_committed_backbone():
    model = training.new_model(Settings())
    again = training.new_model(Settings())
    assert torch.equal(model.head.weight, again.head.weight)
    assert model.blocks[0].attn.qkv.weight.abs().sum() > 0
    assert sum(value.numel() for value in model.trained_state().values()) * 2 < 8 * 2**20


@pytest.mark.parametrize("arguments", [
    ["--steps", "0"], ["--side", "100"], ["--trained-blocks", "3"], ["--token-drop", "1"],
    ["--plain-share", "1.5"], ["--attention-penalty", "-1"],
    ["--resume", "no-such-card.json"], ["--batch", "1"],
])
def test_wrong_arguments_end_with_one_line(arguments, capsys):
    assert training.main(["scenes", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_committed_card_says_what_it_must():
    card = json.loads((assets_dir() / "models" / "scenes.json").read_text("utf-8"))
    assert card["class_names"] == list(CLASS_NAMES)
    assert card["simulated"] is True
    assert card["images_seen"] > 0
    assert any("only once, in the last block" in line for line in card["limits"])
    assert "train scenes" in card["training_command"]
    weights = assets_dir() / "models" / card["weights"]
    assert cards.sha256(weights) == card["weights_sha256"]
    assert weights.stat().st_size <= 8 * 2**20


def test_settings_are_the_options_of_the_command():
    options = {name.replace("_", "-") for name in asdict(replace(Settings(), seed=1))}
    assert {"steps", "trained-blocks", "join-share", "seed"} <= options
