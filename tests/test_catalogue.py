"""The list of what can be loaded, with a stand-in for the model hub: no real network."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save

import cdam_core as cdam
from cdam_core import architectures, catalogue
from cdam_core import hub as hub_module
from cdam_core.__main__ import main
from tests.conftest import randomise
from tests.test_checkpoints import NAMES, save_with_metadata, state_of, vit

ROOT = Path(__file__).parent.parent
GATEWAY = b"down"  # content of a file in whose place a gateway answers
ON_THE_HUB = "test_vit.r160_in1k"  # timm's smallest ViT, 370 000 numbers
PAPER = "timm:vit_small_patch8_224.dino"  # its head is not on the hub


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """No hub, no cache and no proxy but those that a test sets up."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "CDAM_MODELS", "HF_HUB_OFFLINE",
                 "TRANSFORMERS_OFFLINE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE",
                        str(tmp_path / "no-cache"), raising=False)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A local folder with a bit of everything."""
    folder = tmp_path / "models"
    folder.mkdir()
    torch.save(state_of(vit()), folder / "good.pth")
    save_with_metadata(vit(), folder / "named.safetensors", class_names=NAMES)
    save_with_metadata(vit(), folder / "uneven.safetensors", class_names=NAMES[:2])
    torch.save(state_of(vit(num_classes=1000)), folder / "thousand.pth")
    torch.save(state_of(vit(num_classes=0)), folder / "backbone.ckpt")
    (folder / "backbone.txt").write_text("notes, no classes\n", encoding="utf-8")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "other.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    card = dict(cdam.MODELS["scenes"])
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    card["weights"] = "lost.safetensors"
    (folder / "lost.json").write_text(json.dumps(card), encoding="utf-8")
    (folder / "half.json").write_text(json.dumps({"weights": "x"}), encoding="utf-8")
    (folder / "sub").mkdir()
    monkeypatch.setenv("CDAM_MODELS", str(folder))
    return folder


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs."""

    files: dict[str, bytes]

    def _answer(self, with_content):
        content = self.files.get(self.path.split("?")[0])
        self.send_response({None: 404, GATEWAY: 503}.get(content, 200))
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
            content = b""
        else:
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def do_HEAD(self):
        self._answer(with_content=False)

    def do_GET(self):
        self._answer(with_content=True)

    def log_message(self, *_):
        """Keep the tests' output clean."""


@pytest.fixture
def hub():
    """A stand-in hub on this machine; yields its address and the files it has."""
    files = {f"/{hub_module.PROBE}": b"{}"}
    handler = type("Hub", (_Hub,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", files
        server.shutdown()
        thread.join()


# ---- the list ------------------------------------------------------------------------------------


def test_the_list_says_what_load_model_does(folder):
    """Every entry that is called loadable loads, and no other does; what is to be fetched apart."""
    entries = {entry.source: entry for entry in catalogue.catalogue() if not entry.fetch_bytes}
    assert {source for source, entry in entries.items() if entry.loadable} == {
        *cdam.MODELS, "good.pth", "named.safetensors", "thousand.pth", "backbone.ckpt", "card.json"
    }  # fmt: skip
    for source, entry in entries.items():
        if entry.loadable:
            model = cdam.load_model(source)
            assert f"{len(model.class_names)} classes" in entry.text or not model.class_names
        else:
            with pytest.raises(cdam.BadCheckpoint):
                cdam.load_model(source)
    assert set(entries) == {*cdam.MODELS, PAPER, *(
        path.name for path in folder.iterdir()
        if path.name not in ("backbone.txt", "config.json", "sub")
    )}  # fmt: skip


@pytest.mark.parametrize(("source", "sentence"), [
    ("good.pth", "5 classes); classes without names"),
    ("named.safetensors", "5 classes); ant, bee, cat, ..."),
    ("thousand.pth", "1000 classes); ImageNet's classes"),
    ("backbone.ckpt", "4x4 positions, no head)"),
    ("uneven.safetensors", "2 class names for 5 outputs"),
    ("empty.pth", "The file is empty"),
    ("other.onnx", "neither safetensors nor torch"),
    ("lost.json", "weights that the model card names are missing"),
    ("half.json", "card is incomplete"),
])  # fmt: skip
def test_each_entry_has_one_sentence(folder, source, sentence):
    found = {entry.source: entry for entry in catalogue.in_folder(folder)}[source]
    assert sentence in found.text
    assert "\n" not in found.text


def test_the_command_prints_the_list(folder, capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Bundled:"
    assert "Folder CDAM_MODELS:" in lines
    assert "Hub's cache: nothing" in lines
    empty = next(line for line in lines if "empty.pth" in line)
    assert "NOT LOADABLE: The file is empty" in empty
    assert any(line.startswith("Hub: The model hub cannot be reached") for line in lines)


def test_no_folder_and_one_that_is_none(tmp_path, monkeypatch, capsys):
    main(["models"])
    assert "Folder CDAM_MODELS: not set" in capsys.readouterr().out
    monkeypatch.setenv("CDAM_MODELS", str(tmp_path / "nowhere"))
    main(["models"])
    assert "Folder CDAM_MODELS: not a folder" in capsys.readouterr().out
    assert list(catalogue.in_folder(None)) == []


# ---- the hub -------------------------------------------------------------------------------------


def test_the_hub_answers(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub[0])
    reachable, sentence = catalogue.hub_status()
    assert reachable
    assert "answers" in sentence


def test_the_hub_does_not_answer(hub, monkeypatch):
    assert catalogue.hub_status(timeout=1)[0] is False
    assert hub_module.status(timeout=1)[0] == "silent"
    monkeypatch.setenv("HF_ENDPOINT", hub[0])
    hub[1].clear()  # a mirror that lacks this file may have others
    assert catalogue.hub_status()[0] is False
    assert hub_module.status() == (
        "refuses", "the model hub is there but refuses (status 404)"
    )  # fmt: skip
    hub[1][f"/{hub_module.PROBE}"] = GATEWAY
    assert hub_module.status()[0] == "silent"
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    assert "no address" in catalogue.hub_status()[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "switched off by HF_HUB_OFFLINE" in catalogue.hub_status()[1]


DOWNLOAD = """
import sys, torch
import cdam_core as cdam
from cdam_core import architectures, catalogue
for source in sys.argv[1:]:
    try:
        model = cdam.load_model(source)
        print(source, "ok", model.weights_sha256, model.class_names[340])
    except cdam.BadCheckpoint as error:
        print(source, error.reason, error)
for entry in catalogue.in_cache():
    print("cached", entry.source, entry.loadable, entry.text)
print("hub", catalogue.hub_status(timeout=2)[0])
"""


def run_with_hub(address, cache, *sources):
    """The hub's library reads its settings when it is imported, so a process of its own."""
    environment = os.environ | {
        "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_CACHE": str(cache / "hub"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", DOWNLOAD, *sources], env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_model_comes_from_the_hub_and_then_from_its_cache(hub, tmp_path):
    """Reachable: fetched and right. Unreachable: from the cache; what is not there is refused."""
    address, files = hub
    module = randomise(timm.create_model("test_vit")).float()
    files[f"/timm/{ON_THE_HUB}/resolve/main/model.safetensors"] = save(state_of(module))
    expected = cdam.wrap(module).weights_sha256
    lines = run_with_hub(address, tmp_path, f"timm:{ON_THE_HUB}")
    assert lines[0] == f"timm:{ON_THE_HUB} ok {expected} zebra"
    cached = f"cached timm:{ON_THE_HUB} True pretrained weights in the hub's cache"
    assert lines[1:] == [cached, "hub True"]
    nobody = "http://127.0.0.1:9"
    lines = run_with_hub(nobody, tmp_path, f"timm:{ON_THE_HUB}", "timm:vit_tiny_patch16_224")
    assert lines[0] == f"timm:{ON_THE_HUB} ok {expected} zebra"
    assert lines[1] == (
        "timm:vit_tiny_patch16_224 unreachable The weights of vit_tiny_patch16_224 are not in the "
        "local cache and the model hub cannot be reached from here; connect to the network once, "
        "use a bundled model, or give the path of a checkpoint."
    )
    assert lines[2:] == [cached, "hub False"]


def test_other_repositories_of_the_cache_are_recognised_by_their_files(tmp_path, monkeypatch):
    """The cache's own layout: models--owner--name/snapshots/commit/file."""
    names = ("owner--dinov2", "timm--resnet18.a1_in1k", "timm--no_such_model", "timm--test_vit")
    for name in names:
        snapshot = tmp_path / f"models--{name}" / "snapshots" / ("b" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text('{"num_attention_heads": 4}', encoding="utf-8")
        if "test_vit" not in name:
            save_with_metadata(vit(num_heads=4), snapshot / "model.safetensors")
    entries = {entry.source: entry for entry in catalogue.in_cache(tmp_path)}
    assert len(entries) == 4
    file = "hub:owner/dinov2/model.safetensors"
    assert str(tmp_path) not in "".join(source + entry.text for source, entry in entries.items())
    monkeypatch.setattr("cdam_core.hub.in_cache", partial(hub_module.in_cache, tmp_path))
    assert "4 heads" in entries[file].text
    assert cdam.load_model(file).module.blocks[0].attn.num_heads == 4
    assert "ResNet arrived" in entries["timm:resnet18.a1_in1k"].text
    assert "does not know" in entries["timm:no_such_model"].text
    assert "no weights" in entries["timm:test_vit"].text
    assert sum(entry.loadable for entry in entries.values()) == 1
    for gone in ("hub:owner/dinov2/../secret", "hub:owner/nothing/model.safetensors"):
        with pytest.raises(cdam.BadCheckpoint):
            cdam.load_model(gone)


# ---- photographs ---------------------------------------------------------------------------------


def entry_of(source):
    return next(entry for entry in catalogue.photographs() if entry.source == source)


def test_the_curated_models_have_names_of_imagenet_and_can_be_explained():
    """Known to timm with ImageNet-1k's 1000 outputs, small ones first, of a size known before."""
    for photo in catalogue.PHOTOGRAPHS:
        config = timm.get_pretrained_cfg(photo.name, allow_unregistered=False)
        assert config.hf_hub_id == f"timm/{photo.name}"
        assert config.num_classes == (1000 if photo.on_hub else 0)
        assert architectures.why_not_by_name(photo.name) is None
        assert photo.megabytes == round(catalogue.weight_bytes(photo.name) / 1e6)
    sizes = [entry.fetch_bytes for entry in catalogue.photographs() if entry.fetch_bytes]
    assert sizes == sorted(sizes)
    # ViT-Ti/16: 192 wide, 12 blocks, 1000 classes
    assert catalogue.weight_bytes(catalogue.PHOTOGRAPHS[0].name) == 5_717_416 * 4
    assert "23 MB to be fetched" in entry_of(catalogue.PHOTOGRAPHS[0].source).text


def test_without_a_network_the_entry_says_which_file_to_put_where(tmp_path, monkeypatch):
    small = catalogue.PHOTOGRAPHS[0]
    told = f"as {small.name}.safetensors, into a folder of your choice"
    with pytest.raises(cdam.BadCheckpoint, match=told) as error:
        catalogue.fetch(small.source)
    assert error.value.reason == "unreachable"
    assert f"timm/{small.name}" in str(error.value)
    paper = entry_of(PAPER)
    assert not paper.loadable
    assert "vit_small_patch8_224.dino.ckpt" in paper.text
    monkeypatch.setenv("CDAM_MODELS", str(tmp_path))
    assert "into the folder that CDAM_MODELS names" in entry_of(PAPER).text


def test_a_file_put_there_is_the_model_of_that_name(tmp_path, monkeypatch):
    """By its name alone: what timm's architecture needs beyond tensors, normalisation included."""
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    module = randomise(timm.create_model(name, pretrained=False)).float()
    (tmp_path / f"{name}.safetensors").write_bytes(save(state_of(module)))
    late = randomise(timm.create_model("cait_xxs24_224", pretrained=False, num_classes=1000))
    cait = "cait_xxs24_224.fb_dist_in1k"
    (tmp_path / f"{cait}.safetensors").write_bytes(save(state_of(late.float())))
    monkeypatch.setenv("CDAM_MODELS", str(tmp_path))
    entry = entry_of(f"timm:{name}")
    assert entry.loadable
    assert f"{name}.safetensors" in [each.source for each in catalogue.catalogue()]
    assert f"{name}.safetensors" not in [each.source for each in catalogue.offered()]
    assert entry.fetch_bytes == 0
    catalogue.fetch(f"timm:{name}", on_progress=lambda *_: pytest.fail("nothing is to be fetched"))
    model = cdam.load_model(f"timm:{name}")
    assert model.id == f"timm:{name}"
    assert model.class_names[340] == "zebra"
    assert model.mean == (0.5, 0.5, 0.5)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = module(pixels)[0].detach()
    torch.testing.assert_close(model.logits(model.encode(pixels)), expected, rtol=1e-4, atol=1e-4)
    model = cdam.load_model(f"timm:{cait}")
    assert model.grid == (14, 14)
    expected = late(pixels)[0].detach()
    torch.testing.assert_close(model.logits(model.encode(pixels)), expected, rtol=1e-3, atol=1e-3)


def test_a_file_that_is_merely_named_like_an_architecture_is_still_recognised(tmp_path):
    torch.save(state_of(vit()), tmp_path / "vit_small_patch16_224.pth")
    assert len(cdam.load_model(tmp_path / "vit_small_patch16_224.pth").class_names) == 5


def test_the_administrator_decides_what_is_offered(folder, monkeypatch):
    everything = [entry.source for entry in catalogue.offered()]
    assert everything[0] == "scenes"
    assert "good.pth" in everything
    assert "empty.pth" not in everything
    assert PAPER in everything  # says which file it needs
    monkeypatch.setenv("CDAM_ONLY_MODELS", "good.pth, timm:vit_base_patch16_224, scenes, no.pth,")
    listed = catalogue.offered()
    assert [entry.source for entry in listed] == ["good.pth", "timm:vit_base_patch16_224", "scenes"]
    assert listed[1].fetch_bytes > 300e6
    monkeypatch.setenv("CDAM_ONLY_MODELS", "timm:resnet18")
    assert [entry.loadable for entry in catalogue.offered()] == [False]


FETCH = """
import sys
import cdam_core as cdam
from cdam_core import catalogue, hub
seen = []
try:
    catalogue.fetch(sys.argv[1], lambda done, total: seen.append((done, total)))
    print("fetched", seen[-1], sorted(seen) == seen)
    path = hub.cached_weights(sys.argv[1].removeprefix("timm:"))
    if sys.argv[2:] == ["damage"]:
        kept = path.resolve()
        content = bytearray(kept.read_bytes())
        content[-1] ^= 1
        kept.chmod(0o644)
        kept.write_bytes(content)
    print("loaded", cdam.load_model(sys.argv[1]).class_names[340])
except cdam.BadCheckpoint as error:
    print(error.reason, error)
"""


def fetch_with_hub(address, cache, *arguments):
    environment = os.environ | {
        "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_CACHE": str(cache / "hub"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", FETCH, *arguments], env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.slow
def test_fetching_shows_progress_and_keeps_the_checksum(hub, tmp_path):
    """Reachable: bytes counted, found by the next process; changed on disk: refused."""
    address, files = hub
    content = save(state_of(randomise(timm.create_model("test_vit")).float()))
    files[f"/timm/{ON_THE_HUB}/resolve/main/model.safetensors"] = content
    lines = fetch_with_hub(address, tmp_path / "one", f"timm:{ON_THE_HUB}")
    assert lines == [f"fetched {(len(content), len(content))} True", "loaded zebra"]
    lines = fetch_with_hub(address, tmp_path / "two", f"timm:{ON_THE_HUB}", "damage")
    assert lines[1].startswith("damaged The fetched weights do not have the checksum")
    lines = fetch_with_hub(address, tmp_path / "three", "timm:vit_tiny_patch16_224.no_such_tag")
    assert lines[0].startswith("unreachable")


def test_models_of_crops_are_offered_only_where_the_administrator_names_them(monkeypatch):
    monkeypatch.delenv(catalogue.ONLY_VARIABLE, raising=False)
    assert "nodules-malignancy" in {entry.source for entry in catalogue.bundled()}
    assert "nodules-malignancy" not in {entry.source for entry in catalogue.offered()}
    monkeypatch.setenv(catalogue.ONLY_VARIABLE, "scenes,nodules-malignancy")
    assert [entry.source for entry in catalogue.offered()] == ["scenes", "nodules-malignancy"]
