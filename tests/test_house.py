"""The house: pins, notebook pairs and imports that must agree with each other."""

import ast
import asyncio
import graphlib
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

import sslib
from sslib.config import SslibError

ROOT = Path(__file__).parents[1]
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.9"}


def locked():
    """Version of every package in the lock for the Python that environment.yml names, and the number of hashes."""
    pins = {}
    text = (ROOT / "requirements.lock").read_text()
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        if entry.startswith("#"):
            continue
        requirement = Requirement(entry.splitlines()[0].rstrip("\\ "))
        if requirement.marker is None or requirement.marker.evaluate(PYTHON):
            pins[requirement.name] = str(requirement.specifier)
            assert "--hash=sha256:" in entry, f"{requirement.name} has no hash"
    return pins


def direct():
    """The dependencies that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    return {Requirement(text).name: Requirement(text) for text in project["dependencies"] + extras}


def tracked():
    """The text files that git tracks, or would when everything were added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for file in sorted(ROOT / name for name in set(names)):
        if file.is_file():
            try:
                yield file, file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture


def test_lock_holds_every_direct_dependency():
    pins = locked()
    for name, requirement in direct().items():
        assert name in pins, f"{name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(pins[name].removeprefix("==")), f"{name}: make lock"


def test_environment_file_pins_what_the_lock_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "sslib"
    *packages, last = environment["dependencies"]
    assert f"python={PYTHON['python_version']}" in packages and "pip" in packages
    *listed, editable = last["pip"]
    assert editable == "-e ."
    assert sorted(listed) == sorted(name + pin for name, pin in locked().items() if name in direct())


def test_no_file_names_a_registry_or_a_machine():
    hosts = r"https?://[^\s/\"']*(?:py" + r"pi|pythonhosted|anaconda|artifact|nexus|devpi|registry)[^\s]*"
    options = r"--(?:extra-)?ind" + r"ex-url|--find-l" + r"inks|file:" + r"///\w|/opt/wh" + r"eels|/ro" + r"ot/"
    for file, text in tracked():
        found = re.search(f"{hosts}|{options}", text)
        assert not found, f"{file.relative_to(ROOT)}: {found and found.group(0)}"


def test_notebook_pairs_agree(tmp_path):
    copy = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", copy, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    scripts, notebooks = sorted(copy.glob("*.py")), sorted(copy.glob("*.ipynb"))
    assert [file.stem for file in scripts] == [file.stem for file in notebooks], "jupytext --sync notebooks/*.py"
    before = {file: file.read_bytes() for file in scripts + notebooks}
    command = [sys.executable, "-m", "jupytext", "--sync", *map(str, scripts)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    changed = [file.name for file, content in before.items() if file.read_bytes() != content]
    assert not changed, f"the pairs differ: jupytext --sync notebooks/*.py ({changed})"


def test_notebooks_are_stored_without_outputs():
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3", file.name
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert not cell.outputs and cell.execution_count is None, f"{file.name}: clear all outputs"


def test_lab_saves_tracked_notebooks_without_outputs(tmp_path):
    """By the contents manager that a server would use, jupytext's pairing included."""
    from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
    from jupytext.async_contentsmanager import build_async_jupytext_contents_manager_class
    from traitlets.config.loader import PyFileConfigLoader

    home = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", home, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    configured = PyFileConfigLoader("jupyter_server_config.py", path=str(home / "lab")).load_config()
    kind = build_async_jupytext_contents_manager_class(AsyncLargeFileManager)
    manager = kind(config=configured, root_dir=str(home))
    model = asyncio.run(manager.get("02_training.ipynb"))
    for name, keeps in (("02_training.ipynb", False), ("mine.ipynb", True)):
        notebook = nbformat.from_dict(model["content"])
        notebook.metadata["language_info"] = {"name": "python", "version": "3.11.9"}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="of a session")], 7
        asyncio.run(manager.save({"type": "notebook", "content": notebook, "format": "json"}, name))
        assert ("of a session" in (home / name).read_text()) == keeps
    tracked = (ROOT / "notebooks" / "02_training.ipynb", ROOT / "notebooks" / "02_training.py")
    assert [(home / path.name).read_text() for path in tracked] == [path.read_text() for path in tracked]


def test_cells_are_short():
    """A cell shows the method, the data or a result; what is longer belongs into sslib."""
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(file, as_version=4).cells:
            lines = cell.source.splitlines()
            assert cell.cell_type != "code" or len(lines) <= 20, f"{file.name}: {len(lines)} lines from {lines[0]!r} on"


def test_the_model_needs_few_libraries():
    heavy = ("librosa", "lmdb", "av", "papermill", "nbconvert", "lightning_fabric", "matplotlib", "pandas")
    code = f"import sys, sslib.model, sslib.losses; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_own_errors_have_one_base():
    """The command line ends them as one sentence; any other error is a bug and keeps its traceback."""
    for info in pkgutil.walk_packages(sslib.__path__, "sslib."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    todo, outside = [Exception], []
    while todo:
        for kind in todo.pop().__subclasses__():
            todo.append(kind)
            if kind.__module__.startswith("sslib") and not issubclass(kind, SslibError) and kind.__name__[0] != "_":
                outside.append(kind)
    assert outside == []


def test_make_knows_its_targets(tmp_path):
    """On a clone without an environment `make` would build one first; in a ready .venv it only runs."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    # `make test` hands its own variables down, which would make this make talk
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}

    def plan(target):
        dry = ["make", "-n", target, "VIRTUAL_ENV=", "CONDA_PREFIX="]
        done = subprocess.run(dry, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=True)
        return done.stdout

    assert plan("demo").index("uv pip sync") < plan("demo").index("-m sslib run notebooks/configs/demo.yaml")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".synced").touch()
    assert plan("test").strip() == '".venv/bin/python" -m pytest'
    assert plan("demo").strip() == '".venv/bin/python" -m sslib run notebooks/configs/demo.yaml'


def imports():
    """The modules of sslib that each module of sslib imports."""
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in (ROOT / "sslib").rglob("*.py")}
    graph = {}
    for file, name in names.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sslib":
                inside = {f"{node.module}.{alias.name}" for alias in node.names} & set(names.values())
                graph[name] |= inside or {node.module}
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name.split(".")[0] == "sslib"}
    return graph


def test_imports_only_go_down_the_floors_and_in_no_circle():
    floors = {"config": 1, "data": 2, "core": 3, "stamps": 3, "evaluation": 4, "report": 5, "__main__": 6}

    def room(module):
        name = module.split(".")[1] if "." in module else "config"  # sslib itself holds nothing
        return name if name in floors else "core"

    graph = imports()
    for module, used in graph.items():
        for other in used:
            below = floors[room(other)] < floors[room(module)]
            assert below or room(other) == room(module), f"{module} imports {other}, which is not below it"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_rooms_stay_small():
    files = sorted((ROOT / "sslib").rglob("*.py"))
    lines = {file.relative_to(ROOT): len(file.read_text().splitlines()) for file in files}
    assert len(files) <= 46
    assert sum(count for file, count in lines.items() if len(file.parts) == 2) <= 2500
    assert not {file: count for file, count in lines.items() if count > 340}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 50, f"{file.relative_to(ROOT)}: {node.name} is too long"


def test_torch_is_loaded_after_sslib_decided_how_its_threads_wait():
    code = "import sys, sslib, os; assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GOMP")}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1000"
    for file in (ROOT / "notebooks").glob("*.py"):
        text = file.read_text()
        assert "import torch" not in text or text.index("from sslib") < text.index("import torch"), file.name
