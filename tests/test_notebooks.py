"""The notebooks: their cells run, in fewer steps than as shipped, and their pictures are inside."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from conftest import ROOT
from test_configs import write_mnist

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"first_gan": 1, "own_data_and_networks": 2, "what_losses_mean": 3, "conditional_digits": 5}
STEPS = re.compile(r"^steps = (\d+) ", re.MULTILINE)


def code(path: Path) -> list[dict[str, Any]]:
    """The cells that are run."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAN_LIGHTNING_DATA", "data")
    plt.switch_backend("agg")
    plt.close("all")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [source(cell) for cell in code(path)]
    (asked,) = STEPS.findall("\n".join(cells))
    for cell in cells:
        exec(compile(STEPS.sub("steps = 4 ", cell), path.name, "exec"), namespace)
    figures = len(plt.get_fignums())
    plt.close("all")
    assert (namespace["steps"], int(asked) >= 400) == (4, True)
    assert figures == PICTURES[path.stem]
    if "trainer" in namespace:
        assert namespace["trainer"].global_step == 4
        assert namespace["gan"].images_seen > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_pictures_are_inside(path: Path) -> None:
    assert path.stat().st_size < 300_000
    cells = code(path)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[path.stem]
    assert {output.get("name") for output in outputs if output["output_type"] == "stream"} <= {"stdout"}
    assert not any(output["output_type"] == "error" for output in outputs)
    assert not re.search(r"/(home|root|tmp|work)/", path.read_text())


def test_there_are_no_others() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(PICTURES)
