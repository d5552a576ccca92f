"""Defer modules that Lightning and torch import but a run seldom uses, until they are used.

Lightning imports torch's compiler only for ``isinstance``, and torch's optimizers import it for decorators that matter
only in compiled code. Lightning also imports three classes of torchmetrics, a package that imports every metric,
torchvision, scipy and pyplot. These imports took half of the time from the command to the first update.
"""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

COMPILER, METRICS, PLOT = "torch._dynamo", "torchmetrics", "torchmetrics.utilities.plot"
CLASSES = {"metric": "Metric", "collections": "MetricCollection", "aggregation": "MeanMetric"}  # by module


class Deferred(ModuleType):
    """A module that is executed when a missing attribute or a submodule is requested."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        execute(self)
        return getattr(self, name)


def execute(module: ModuleType) -> None:
    """Execute a deferred module in place, which makes it the real one."""
    module.__class__ = ModuleType
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module)


def defer(spec: ModuleSpec | None, **known: Any) -> None:
    """Defer a module; ``known`` are attributes that it has until it is executed."""
    assert spec is not None
    module = module_from_spec(spec)
    module.__class__ = Deferred
    vars(module).update(known)
    sys.modules[spec.name] = module
    package, _, name = spec.name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], name, module)


def defer_rarely_used(compiles: bool = False) -> None:
    """Defer rarely used modules; call before importing Lightning. Modules that are already imported do not change.

    A run that ``compiles`` gets the compiler at once.
    """
    if METRICS not in sys.modules:
        defer_metrics()
    if COMPILER not in sys.modules and not compiles:
        defer_compiler()
    if not any(isinstance(finder, InsideDeferred) for finder in sys.meta_path):
        sys.meta_path.insert(0, InsideDeferred())


def defer_metrics() -> None:
    """Defer torchmetrics except for the classes that Lightning and our validation use; these are never plotted."""
    spec = find_spec(METRICS)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    defer(spec, _logger=logging.getLogger(METRICS))
    defer(
        spec_from_file_location(PLOT, Path(spec.submodule_search_locations[0]) / "utilities" / "plot.py"),
        _AX_TYPE=object,
        _PLOT_OUT_TYPE=object,
        plot_single_or_multi_val=_plot,
    )
    names = vars(sys.modules[METRICS])
    names["__version__"] = import_module(f"{METRICS}.__about__").__version__
    import_module(f"{METRICS}.utilities")  # first, as in torchmetrics: it and Metric import each other
    for inside, name in CLASSES.items():
        names[name] = getattr(import_module(f"{METRICS}.{inside}"), name)


def _plot(*args: Any, **kwargs: Any) -> Any:
    module = sys.modules[PLOT]
    if isinstance(module, Deferred):
        execute(module)
    return module.plot_single_or_multi_val(*args, **kwargs)


def defer_compiler() -> None:
    """Defer torch._dynamo except for its function decorators, which do nothing in code that is not compiled."""
    defer(find_spec(COMPILER), OptimizedModule=Compiled, graph_break=_mark_nothing, disable=_mark)


class _OfCompiler(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        real = sys.modules[COMPILER].OptimizedModule
        return real is not cls and isinstance(instance, real)


class Compiled(metaclass=_OfCompiler):
    """Stands for the class of compiled networks, which has no instances before the compiler is loaded."""


def _mark(fn: Any, *args: Any, **kwargs: Any) -> Any:
    return fn


def _mark_nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing, as in code that is not compiled."""


class InsideDeferred(MetaPathFinder):
    """Executes a deferred package before a module inside it is imported, as the import system would."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(package, Deferred):
            return None
        execute(package)
        if name not in sys.modules:
            return None
        module = sys.modules[name]  # already imported by the package: it must not be executed again
        module.__spec__ = ModuleSpec(name, _Present(module, module.__spec__))
        return module.__spec__


class _Present(Loader):
    """Returns a module that is already loaded."""

    def __init__(self, module: ModuleType, spec: ModuleSpec | None) -> None:
        self.module, self.spec = module, spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
