"""Modules that Lightning and torch import and a run seldom uses, executed once something is asked of them.

Lightning imports torch's compiler for the sake of ``isinstance``, and each of torch's optimizers for marks that only
compiled code reads; and of torchmetrics three classes, whose package imports every metric, torchvision, scipy and
pyplot. That was half of the time from the command to the first update.
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
CLASSES = {"metric": "Metric", "collections": "MetricCollection", "aggregation": "MeanMetric"}  # by their modules


class Deferred(ModuleType):
    """A module that is executed when a name that it has not is asked of it, or a module inside it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        execute(self)
        return getattr(self, name)


def execute(module: ModuleType) -> None:
    """Make a deferred module the true one, in the same object."""
    module.__class__ = ModuleType
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module)


def defer(spec: ModuleSpec | None, **known: Any) -> None:
    """Let a module wait, with what is asked of it meanwhile."""
    assert spec is not None
    module = module_from_spec(spec)
    module.__class__ = Deferred
    vars(module).update(known)
    sys.modules[spec.name] = module
    package, _, name = spec.name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], name, module)


def defer_rarely_used(compiles: bool = False) -> None:
    """To be called before Lightning is imported; what is imported already stays as it is.

    A run that ``compiles`` has the compiler at once.
    """
    if METRICS not in sys.modules:
        defer_metrics()
    if COMPILER not in sys.modules and not compiles:
        defer_compiler()
    if not any(isinstance(finder, InsideDeferred) for finder in sys.meta_path):
        sys.meta_path.insert(0, InsideDeferred())


def defer_metrics() -> None:
    """torchmetrics with the classes that Lightning and our validation take from it, of which nothing is plotted."""
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
    import_module(f"{METRICS}.utilities")  # first, as there: it and Metric import each other
    for inside, name in CLASSES.items():
        names[name] = getattr(import_module(f"{METRICS}.{inside}"), name)


def _plot(*args: Any, **kwargs: Any) -> Any:
    module = sys.modules[PLOT]
    if isinstance(module, Deferred):
        execute(module)
    return module.plot_single_or_multi_val(*args, **kwargs)


def defer_compiler() -> None:
    """torch._dynamo with its marks for functions, which say nothing where nothing is compiled."""
    defer(find_spec(COMPILER), OptimizedModule=Compiled, graph_break=_mark_nothing, disable=_mark)


class _OfCompiler(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        real = sys.modules[COMPILER].OptimizedModule
        return real is not cls and isinstance(instance, real)


class Compiled(metaclass=_OfCompiler):
    """The class that the compiler wraps networks in, which has no instances before the compiler is there."""


def _mark(fn: Any, *args: Any, **kwargs: Any) -> Any:
    return fn


def _mark_nothing(*args: Any, **kwargs: Any) -> None:
    """As between calls where nothing is compiled."""


class InsideDeferred(MetaPathFinder):
    """Executes a deferred package before a module inside it is imported, as the import system would have."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(package, Deferred):
            return None
        execute(package)
        if name not in sys.modules:
            return None
        module = sys.modules[name]  # the package has imported it: it must not be executed again
        module.__spec__ = ModuleSpec(name, _Present(module, module.__spec__))
        return module.__spec__


class _Present(Loader):
    """Gives a module that is there."""

    def __init__(self, module: ModuleType, spec: ModuleSpec | None) -> None:
        self.module, self.spec = module, spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
