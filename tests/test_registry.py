"""What holds for every row of METHODS, on every tiny model."""

import inspect
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import cdam_core as cdam
from cdam_core.methods import blocks
from tests.conftest import CLASSES, SIZE, VARIANTS, tiny_module

# id -> settings that make a test fast
QUICK = {
    "smooth_cdam": {"n": 4},
    "integrated_cdam": {"steps": 4},
    "smoothgrad": {"n": 3},
    "integrated_gradients": {"steps": 3},
}
MODELS = [*VARIANTS, "late"]
ASKED = [0, cdam.Contrast(1, 3), 4]


CASES = [(m, k) for m in MODELS for k in cdam.METHODS]


@pytest.fixture(scope="module")
def models():
    return {name: cdam.wrap(tiny_module(name)) for name in MODELS}


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(6)).double()


def ask(model, image, target, method):
    return cdam.explain(model, image, target, method, **QUICK.get(method, {}))


def state_of(module):
    """Everything a method could leave behind."""
    return (
        {name: tensor.clone() for name, tensor in module.state_dict().items()},
        [(p.requires_grad, p.grad) for p in module.parameters()],
        [sorted(vars(part)) for part in module.modules()],
        [part.training for part in module.modules()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks)
         for part in module.modules()],
    )  # fmt: skip


def assert_same_state(before, after):
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize(("model_id", "method_id"), CASES)
def test_every_method_on_every_model(models, image, model_id, method_id):
    """Shape, finite numbers, seeded, alone as in a list, JSON-able, model untouched."""
    model, method = models[model_id], cdam.METHODS[method_id]
    before = state_of(model.module)
    e = ask(model, image, ASKED, method_id)
    assert_same_state(before, state_of(model.module))
    size = SIZE if method.resolution == "pixel" else model.grid
    assert e.scores.shape == (3, *size)
    assert e.scores.dtype == np.float32
    assert np.isfinite(e.scores).all()
    assert np.abs(e.scores).max() > 0 or "grad_cam" in method_id  # these may cut everything
    assert np.isfinite(e.rest).all() or np.isnan(e.rest).all()
    f = model.module(image)[0].detach().numpy()
    np.testing.assert_allclose(e.values, [f[0], f[1] - f[3], f[4]], rtol=1e-5)
    assert json.loads(json.dumps(e.provenance()))["settings"] == dict(e.settings)
    again = cdam.explain(model, image, ASKED, method_id, **e.settings)
    np.testing.assert_array_equal(again.scores, e.scores)
    for index, target in enumerate(ASKED):
        alone = ask(model, image, target, method_id)
        scale = np.abs(e.scores[index]).max()
        np.testing.assert_allclose(alone.scores[0], e.scores[index], atol=2e-6 * scale, rtol=2e-5)


@pytest.mark.parametrize("method_id", cdam.METHODS)
def test_the_table_tells_the_truth(models, image, method_id):
    """Signs, dependence on the target, resolution, input and settings are as the row says."""
    model, method = models["registers"], cdam.METHODS[method_id]
    e = ask(model, image, list(range(CLASSES)), method_id)
    assert (e.scores.min() < 0) == method.signed
    assert np.array_equal(e.scores[0], e.scores[1]) == (not method.class_specific)
    if method.needs == "pixels":
        with pytest.raises(cdam.BadTarget, match="encoding arrived"):
            ask(model, model.encode(image), 0, method_id)
    else:
        alone = ask(model, model.encode(image), 0, method_id).scores
        np.testing.assert_allclose(alone[0], e.scores[0], rtol=1e-4, atol=1e-7)
    parameters = list(inspect.signature(method.run).parameters)
    given = [name for name in parameters[3:] if name != "on_step"]
    assert given == [setting.name for setting in method.settings]
    assert ("on_step" in parameters) == method.steps
    defaults = inspect.signature(method.run).parameters
    for setting in method.settings:
        assert defaults[setting.name].default == setting.default
        assert setting.help.endswith(".")
    assert method.summary.endswith(".")
    assert method.cost in ("instant", "seconds", "minutes")


@pytest.mark.parametrize("method_id", cdam.METHODS)
def test_an_error_inside_leaves_the_model_as_it_was(models, image, method_id, monkeypatch):
    model = models["plain"]
    before = state_of(model.module)

    class Refused(Exception):
        pass

    def refuse(*_):
        raise Refused

    monkeypatch.setattr("cdam_core.targets.Targets.values", refuse)
    with pytest.raises(Refused):
        ask(model, image, 0, method_id)
    assert_same_state(before, state_of(model.module))


def test_eight_threads_on_one_model(models):
    """Every method at once from eight threads: everybody gets their own maps."""
    model = models["registers"]
    draw = torch.Generator().manual_seed(4)
    images = [torch.randn(1, 3, *SIZE, generator=draw).double() for _ in range(8)]
    expected = [{m: ask(model, x, [0, 1], m).scores for m in cdam.METHODS} for x in images]
    wrong = []

    def work(i):
        order = list(cdam.METHODS)
        order = order[i:] + order[:i]
        for _ in range(2):
            for m in order:
                got = ask(model, images[i], [0, 1], m).scores
                scale = np.abs(expected[i][m]).max()
                if not np.allclose(got, expected[i][m], rtol=1e-4, atol=1e-6 * scale):
                    wrong.append((i, m))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("method_id", cdam.METHODS)
def test_another_size_than_the_models_own(models, method_id):
    """Interpolated positions: a grid of 5 x 3, in float64."""
    x = torch.randn(1, 3, 40, 24, generator=torch.Generator().manual_seed(7)).double()
    e = ask(models["registers"], x, 1, method_id)
    assert e.grid == (5, 3)
    assert e.scores.shape[1:] in ((5, 3), (40, 24))
    assert np.isfinite(e.scores).all()


@pytest.mark.parametrize("method_id", cdam.METHODS)
def test_float32_agrees_with_float64(models, image, method_id):
    """What people run is float32; no rule may blow its rounding up."""
    model = models["plain"]
    single = cdam.wrap(tiny_module("plain").float())
    exact = ask(model, image, [1, 2], method_id).scores
    got = ask(single, image.float(), [1, 2], method_id).scores
    np.testing.assert_allclose(got, exact, atol=2e-3 * np.abs(exact).max())


def test_memory_of_a_batch_is_bounded(models):
    model = models["plain"]
    small = blocks.images_per_batch(model, SIZE, with_graph=True)
    assert small >= 1
    assert blocks.images_per_batch(model, (3200, 4800), with_graph=True) < small


def test_the_documented_tables_are_current():
    """docs/methods.md is what ``scripts/document_methods.py`` makes of the tables."""
    script = Path(__file__).parent.parent / "scripts" / "document_methods.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
