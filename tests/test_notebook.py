"""The notebook: stored without outputs, its code valid; and run as a user would, heavy."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "animate.ipynb"


def cells(kind):
    return [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == kind]


def test_it_is_stored_without_outputs_and_its_code_is_valid():
    found = cells("code")
    assert len(found) > 4
    for cell in found:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


def test_what_it_imports_is_there():
    for cell in cells("code"):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("dispose_jax"):
                made = {}
                names = ", ".join(alias.name for alias in node.names)
                exec(f"from {node.module} import {names}", made)


def test_what_its_first_cell_installs_can_be_imported_at_once():
    # Python without what is installed here, and an installation that succeeds.
    code = "".join(cells("code")[0]["source"])
    code = f"import subprocess; subprocess.run = lambda *a, **k: None\n{code}\nimport dispose_jax"
    command = [sys.executable, "-S", "-E", "-c", f"{code}; print(dispose_jax.__file__)"]
    ran = subprocess.run(command, cwd=NOTEBOOK.parent, capture_output=True, text=True)
    assert ran.stdout.strip() == str(ROOT / "dispose_jax" / "__init__.py"), ran.stderr


@pytest.mark.full
def test_it_runs_from_beginning_to_end(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra: notebook)")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    run = nbclient.NotebookClient(
        notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}
    )
    run.execute()
    assert {path.name for path in tmp_path.iterdir()} == {
        "animation.mp4",
        "again.mp4",
        "control.png",
    }
    shown = [set(out.get("data", {})) for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("image/png" in kinds for kinds in shown)
