"""The built wheel, installed alone, loads a bundled model and explains from any directory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cdam_core

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent

REPORT = """
import json, pathlib
print(json.dumps({"file": cdam.__file__, "version": cdam.__version__,
                  "scores": e.scores.tolist(), "all": maps.scores.shape}))
"""


def pip(*arguments) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_installed(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment,
                          capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds the wheel's content and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ROOT, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    (wheel,) = folder.glob("cdam_explorer-*.whl")
    pip("install", "--no-deps", "--target", folder / "installed", wheel)
    return folder / "installed"


def test_the_readmes_example_runs_from_the_wheel_alone(installed, tmp_path):
    """Same numbers as from the checkout, in a folder where only the picture lies."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((240, 180), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "picture.jpg", quality=90)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    done = run_installed(installed, tmp_path, "-c", example + REPORT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])

    assert Path(report["file"]).is_relative_to(installed)
    assert report["version"] == cdam_core.__version__
    model = cdam_core.load_model("scenes")
    e = cdam_core.explain(model, cdam_core.open_image(tmp_path / "picture.jpg"),
                          ["elephant", "zebra", cdam_core.Contrast("elephant", "zebra")])
    assert np.allclose(report["scores"], e.scores, rtol=1e-3, atol=1e-4)
    assert report["all"] == [len(model.class_names), *model.grid]


def test_the_command_line_runs_from_the_wheel(installed, tmp_path):
    done = run_installed(installed, tmp_path, "-m", "cdam_core", "models")
    assert done.returncode == 0, done.stderr
    assert "scenes" in done.stdout


def test_the_wheel_holds_code_models_and_notices_only(installed):
    (package, metadata) = sorted(path.name for path in installed.iterdir() if path.name != "bin")
    assert package == "cdam_core"
    assert re.fullmatch(r"cdam_explorer-[\d.]+\.dist-info", metadata)
    assets = {path.relative_to(ROOT / "assets") for path in (ROOT / "assets").rglob("*")}
    shipped = installed / "cdam_core" / "_assets"
    assert {path.relative_to(shipped) for path in shipped.rglob("*")} == assets
