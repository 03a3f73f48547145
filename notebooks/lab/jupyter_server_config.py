"""JupyterLab as ``make lab`` starts it: the notebooks of the repository are saved without outputs.

They and their .py halves are tracked by git. What a session shows is kept under another name; what `sslib run` executes
keeps its outputs in reports/.
"""

from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[1]


def without_outputs(model, path, contents_manager, **_):
    """Take out of a tracked notebook what running it left, before it is saved."""
    file = Path(contents_manager.root_dir, path.strip("/")).resolve()
    paired = file.parent == NOTEBOOKS and file.with_suffix(".py").is_file()
    if model["type"] != "notebook" or not paired:
        return
    for name in ("widgets", "language_info"):
        model["content"]["metadata"].pop(name, None)
    for cell in model["content"]["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            cell["metadata"].pop("execution", None)


get_config().FileContentsManager.pre_save_hook = without_outputs
