"""Modules that wait: what is known of them costs nothing, whatever else is asked executes them, once."""

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from gan_lightning.deferred import Compiled, Deferred, InsideDeferred, defer

PACKAGE = """
import slow_package.inside
executed = globals().get("executed", 0) + 1
from slow_package.inside import value
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package that waits, of which ``quick`` is known."""
    (tmp_path / "slow_package").mkdir()
    (tmp_path / "slow_package" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "slow_package" / "inside.py").write_text("value = object()")
    (tmp_path / "slow_package" / "other.py").write_text("from slow_package import executed")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [InsideDeferred(), *sys.meta_path])
    defer(find_spec("slow_package"), quick=1)
    yield sys.modules["slow_package"]
    for name in [name for name in sys.modules if name.startswith("slow_package")]:
        del sys.modules[name]


def test_what_is_known_executes_nothing(package: ModuleType) -> None:
    from slow_package import quick

    assert quick == import_module("slow_package").quick == 1
    assert not hasattr(package, "__wrapped__")  # as inspect asks of every module
    assert package.__file__.endswith("__init__.py")
    assert type(package) is Deferred
    assert "slow_package.inside" not in sys.modules


def test_another_name_executes_it_in_its_place(package: ModuleType) -> None:
    from slow_package import value

    assert type(package) is ModuleType
    assert sys.modules["slow_package"] is package
    assert package.executed == 1
    assert value is import_module("slow_package.inside").value
    with pytest.raises(AttributeError, match="nothing"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["inside", "other"])
def test_a_module_inside_comes_after_its_package_and_once(package: ModuleType, name: str) -> None:
    inside = import_module(f"slow_package.{name}")
    assert package.executed == 1
    assert inside is sys.modules[f"slow_package.{name}"] is getattr(package, name)
    assert package.value is sys.modules["slow_package.inside"].value
    assert inside.__spec__ is not None
    assert inside.__spec__.origin == inside.__file__


def test_compiled_networks_are_known_as_such() -> None:
    network = nn.Linear(1, 1)
    assert isinstance(torch.compile(network), Compiled)
    assert not isinstance(network, Compiled)
