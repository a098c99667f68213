"""The house rules that can be read from the files: imports, purity, portability, size."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cdam_core
from cdam_core.assets import assets_dir

ROOT = Path(__file__).parent.parent
# The data flow, first to last; a module imports only what stands before it.
ORDER = ("errors", "assets", "threads", "devices", "files", "archive", "intervals", "images",
         "late_vit", "architectures", "bank", "last_block", "layouts", "checkpoints", "hub",
         "models", "sizes", "concepts", "targets", "methods", "maps", "regions", "pictures",
         "explanation", "benchmarks", "sanity", "mechanism", "provenance", "replaying", "series",
         "sheets", "report")
# Beside the data flow: these may import it, and it never imports them.
BESIDE = ("scenes", "nodules", "dicom", "training", "catalogue", "head", "training_head",
          "commands")
ENTRIES = ("__init__", "__main__")  # see everything
HOOKS = re.compile(r"register_\w*hook")
GLOBAL_SWITCHES = {"torch.set_grad_enabled", "torch.set_default_dtype", "torch.manual_seed",
                   "torch.set_default_device", "torch.use_deterministic_algorithms",
                   "np.random.seed", "np.seterr", "random.seed"}
MAX_FILE_BYTES = 40 * 2**20


def git_files() -> list[Path]:
    """What is tracked, or about to be: also new files that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if (path := ROOT / name).is_file()]


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def running_nodes(tree: ast.AST):
    """All nodes except imports that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if not is_typing_block(node):
            yield node
            yield from running_nodes(node)


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, functions included."""
    names = set()
    for node in running_nodes(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the order"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(path: Path) -> str:
    """Name of the module or sub-package of cdam_core that a file belongs to."""
    return path.relative_to(ROOT / "cdam_core").with_suffix("").parts[0]


def imported_modules(path: Path) -> set[str]:
    """Modules of cdam_core that a file of cdam_core imports, itself left out."""
    modules = {name.split(".")[1] for name in imports(path) if name.startswith("cdam_core.")}
    known = {module_of(file) for file in python_files("cdam_core")}
    return (modules & known) - {module_of(path)}


def is_training(path: Path) -> bool:
    return any("train" in part for part in path.relative_to(ROOT / "cdam_core").parts)


# ---- imports -------------------------------------------------------------------------------------

def test_every_module_has_its_place():
    modules = {module_of(path) for path in python_files("cdam_core")}
    assert modules <= {*ORDER, *BESIDE, *ENTRIES}


@pytest.mark.parametrize("path", python_files("cdam_core"), ids=lambda p: p.stem)
def test_imports_point_only_backwards(path):
    module = module_of(path)
    if module in ORDER:
        assert imported_modules(path) <= set(ORDER[:ORDER.index(module)])


def test_a_forward_import_would_be_noticed(tmp_path):
    file = tmp_path / "images.py"
    file.write_text("def f():\n    from cdam_core.maps import to_map\n"
                    "if TYPE_CHECKING:\n    from cdam_core.pictures import draw\n")
    assert imports(file) == {"cdam_core.maps.to_map"}


def test_the_library_knows_no_streamlit_and_pages_know_no_torch():
    for path in python_files("cdam_core"):
        assert not {name for name in imports(path) if name.split(".")[0] == "streamlit"}, path.name
    for path in python_files("pages"):
        found = {name for name in imports(path) if name.split(".")[0] in ("torch", "timm")}
        assert not found, f"{path.name} imports {found}"


# ---- purity --------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [p for p in python_files("cdam_core") if not is_training(p)],
                         ids=lambda p: p.stem)
def test_no_hooks_no_backward_no_global_switches(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            where = f"{path.name}:{node.lineno} {node.attr}"
            assert not HOOKS.fullmatch(node.attr), where
            assert node.attr != "backward", where
            assert ast.unparse(node) not in GLOBAL_SWITCHES, where


# ---- text ----------------------------------------------------------------------------------------

def text_files() -> list[tuple[Path, str]]:
    suffixes = {".py", ".md", ".toml", ".txt", ".cff", ".json", ".yml", ".yaml", ".js", ".css", ""}
    return [(path, path.read_text("utf-8")) for path in git_files() if path.suffix in suffixes]


def test_no_absolute_paths():
    """No folders of somebody's machine (put together here, so as not to find themselves)."""
    folders = "|".join(("w" "ork", "t" "mp", "r" "oot", "h" "ome", "o" "pt"))
    machine = re.compile(rf"(?<![\w.])/(?:{folders})/\w|[A-Z]:\\" "Users")
    found = [f"{path.relative_to(ROOT)}: {match.group()}" for path, text in text_files()
             for match in machine.finditer(text)]
    assert not found


def test_nothing_is_left_for_later():
    later = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
    found = [str(path.relative_to(ROOT)) for path, text in text_files() if later.search(text)]
    assert not found


def test_files_are_small_enough_for_everyone_to_clone():
    large = {path.name: path.stat().st_size for path in git_files()
             if path.stat().st_size > MAX_FILE_BYTES}
    assert not large


def test_ruff_is_content():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--output-format", "concise",
                           "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- packaging -----------------------------------------------------------------------------------

def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_assets_are_found_from_the_checkout():
    assert assets_dir() == ROOT / "assets"
    assert (assets_dir() / "models").is_dir()


def test_pins_lie_inside_the_ranges_of_the_package():
    from packaging.requirements import Requirement
    lines = [line for path in ROOT.glob("requirements*.txt")
             for line in path.read_text("utf-8").splitlines()]
    pins = {pin.name: next(iter(pin.specifier)) for line in lines
            if line and not line.startswith(("-", "#")) for pin in [Requirement(line)]}
    assert {pin.operator for pin in pins.values()} == {"=="}
    extras = project()["optional-dependencies"]
    for line in sum(extras.values(), project()["dependencies"]):
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[wanted.name].version), line


def test_version_has_one_source():
    assert "version" in project()["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", cdam_core.__version__)
    assert f"## {cdam_core.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_ci_runs_the_command_that_the_readme_gives():
    readme = (ROOT / "README.md").read_text("utf-8")
    script = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    install = ".venv/bin/pip install -r requirements-test.txt"
    assert f"{install} && .venv/bin/python -m pytest -n 2`" in readme
    assert script[-1] == "python -m pytest -n 2"
    assert "python -m pip install -q -r requirements-test.txt" in script


def test_links_of_the_documents_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text("utf-8")):
            assert target.startswith("https://") or (ROOT / target).is_file(), f"{name}: {target}"
