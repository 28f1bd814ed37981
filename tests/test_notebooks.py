"""notebooks/: committed with their outputs, and runnable from a clean checkout (here on a miniature setting)."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What the cell tagged "parameters" is followed by: whichever of these names it sets. The data is the bundled sample.
MINIATURE = {"DATA": "data/craft", "UNLABELED": 16, "TEST": 8, "SHOWN": 6, "EPOCHS": 1, "GOLD_EPOCHS": 1, "SEEDS": [0],
             "AMOUNTS": [16], "SIZES": [4, 8], "STAGE_COUNTS": [1, 2]}
FEWER_STEPS = 'import student; student.RECIPES["tiny"].min_steps = 10'              # 300, where a notebook names no epochs
FEW = {"labeled.jsonl": 8, "valid.jsonl": 4}              # so many of its sentences


def cells(notebook, kind="code"):
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_all_seven_are_there():
    assert [notebook.name[:2] for notebook in NOTEBOOKS] == [f"0{n}" for n in range(1, 8)]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_outputs_are_committed(notebook):
    code = cells(notebook)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "not run top to bottom"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    figures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert figures == sum("plt.show()" in "".join(cell["source"]) for cell in code)
    assert len(outputs) > 1
    assert sum(cell["metadata"].get("tags") == ["parameters"] for cell in code) == 1


def execute(notebook, folder, environment):
    """The notebook as it ran on a miniature setting in a clean checkout, which is made in `folder`: no runs, no corpora."""
    import nbclient
    import nbformat
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name == "notebooks":
            (folder / path.name).symlink_to(path)
    (folder / "data" / "craft").mkdir(parents=True)
    for path in (ROOT / "data").glob("*.py"):
        (folder / "data" / path.name).symlink_to(path)
    for path in (ROOT / "data" / "craft").glob("*.json*"):
        if path.name in FEW:                                # every student learns the one, and labels the other
            rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / "data" / "craft" / path.name).write_text("".join(rows[:FEW[path.name]]), encoding="utf-8")
        else:
            (folder / "data" / "craft" / path.name).symlink_to(path)
    book = nbformat.read(notebook, as_version=4)
    at = next(i for i, cell in enumerate(book.cells) if cell.metadata.get("tags") == ["parameters"])
    names = [name for name in MINIATURE if name in book.cells[at].source.replace(",", " ").split()]
    assert names
    book.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join([FEWER_STEPS, *(f"{name} = {MINIATURE[name]!r}" for name in names)])))
    client = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}})
    return client.execute(env=environment)


@pytest.fixture(scope="module")
def running(request, tmp_path_factory):
    """{notebook: a future of it}, of those that are asked for. Two run at a time, each on a core of its own, the longest first."""
    for package in ("nbformat", "nbclient", "matplotlib"):
        pytest.importorskip(package)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    asked = [item.callspec.params["notebook"] for item in request.session.items if "running" in getattr(item, "fixturenames", ())]
    asked.sort(key=lambda notebook: notebook.stem not in ("06_ablations", "01_mckd_walkthrough"))
    pool = ThreadPoolExecutor(2)
    yield {notebook: pool.submit(execute, notebook, tmp_path_factory.mktemp(notebook.stem), environment) for notebook in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_runs_top_to_bottom_on_a_miniature_setting(notebook, running):
    book = running[notebook].result()
    assert not [output for cell in book.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
