"""The notebooks in examples/ run from their first cell to their last, in an empty folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
def test_own_images_runs_from_a_folder_to_a_report_and_maps(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    (tmp_path / "home").mkdir()
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    book = nbformat.read(ROOT / "examples" / "own_images.ipynb", as_version=4)
    here = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=200, resources=here).execute(
        env={**os.environ, "PYTHONPATH": path}
    )
    printed = [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in book.cells
        if cell.cell_type == "code"
    ]
    assert "3 classes: disc, square, triangle" in printed[1]
    assert "cannot be used" not in printed[1]
    summary = json.loads((tmp_path / "own-images" / "run" / "summary.json").read_text())
    assert summary["best_val_accuracy"] > 0.6  # a third by chance
    assert f"best epoch {summary['best_epoch']}: " in printed[3]
    assert printed[4].count("own-images/photos/") == 3
    assert (tmp_path / "own-images" / "run" / "report.html").stat().st_size > 10_000
    assert [output.output_type for output in book.cells[-2].outputs] == ["display_data"]
    inside = {path.name for path in tmp_path.iterdir()}
    assert inside == {"home", "own-images"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path):
    """They would name somebody's folders, and would not be those of the code that stands there."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
