"""Tables with numeric and categorical columns, from CSV files."""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics import Metric

from gan_lightning import pictures
from gan_lightning.batch import Batch
from gan_lightning.config import one_line
from gan_lightning.data.scaling import fitted
from gan_lightning.data.tensors import Source, TensorData
from gan_lightning.errors import UsageError
from gan_lightning.metrics.table import TableMetrics

if TYPE_CHECKING:
    from pandas import DataFrame, Series

EXACT = 2**53  # whole numbers up to this are exact in float64
MOST = 1000  # categories per column
FEW = 20  # different texts that may well be categories, even if they look like numbers


class TableData(TensorData):
    """The rows of a CSV file with a header: numeric columns are standardized, the others one-hot encoded.

    A column that pandas reads as numbers is numeric, unless it is listed in ``categorical``; any other column has one
    category per distinct value. ``columns`` lists the columns to keep, None for all. Numeric values of samples are
    rounded to the number of decimals in the file.
    """

    def __init__(
        self,
        path: str,
        batch_size: int,
        columns: Sequence[str] | None = None,
        categorical: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        self.path = Path(path).expanduser()
        self.columns = None if columns is None else list(map(str, columns))
        self.categorical = set(map(str, categorical))

    @property
    def place(self) -> str:
        return str(self.path)

    @cached_property
    def blocks(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(map(_width, self.units["columns"]))

    def load(self) -> Source:
        typed, texts, nameless = read_table(self.path)
        known = self.__dict__.get("units")  # from a checkpoint
        names = [column["name"] for column in known["columns"]] if known else self._names(list(texts), nameless)
        if absent := [name for name in names if name not in texts]:
            raise UsageError(f"{self.path} has no column {absent[0]}: it has {', '.join(texts)}.")
        described = known["columns"] if known else [self._describe(name, typed[name], texts[name]) for name in names]
        parts = [self._encode(column, typed[column["name"]], texts[column["name"]]) for column in described]
        return Source(Batch(torch.cat(parts, 1)), (), {"columns": described})

    def _names(self, present: list[str], nameless: Collection[str]) -> list[str]:
        names = present if self.columns is None else self.columns
        if not names or len(set(names)) < len(names):
            raise UsageError(f"data.columns is {list(names)}: give at least one name, each once, or null for all.")
        if absent := [name for name in [*names, *self.categorical] if name not in present]:
            raise UsageError(
                f"data names the column {absent[0]}, which is not in {self.path}: it has {', '.join(present)}."
            )
        if chosen := [name for name in names if name in nameless]:
            raise UsageError(
                f"{self.path} has no name for column {present.index(chosen[0]) + 1} of {len(present)}, as pandas "
                "writes its index: give it a name, or list the other columns by data.columns=[NAMES]."
            )
        if left_out := self.categorical.difference(names):
            raise UsageError(
                f"data.categorical names {min(left_out)}, which data.columns leaves out: add it there, or remove "
                "it from data.categorical."
            )
        return names

    def _describe(self, name: str, values: "Series", texts: "Series") -> dict[str, Any]:
        """Describe a column in plain containers."""
        if name not in self.categorical and _is_numeric(values):
            x = self._numbers(values)
            large = np.abs(x) > EXACT
            if len(np.unique(x[large])) < texts[large].nunique():
                raise UsageError(
                    f"The column {name} of {self.path} has numbers such as {texts[large].iloc[0]}, whose differences a "
                    "float64 cannot hold: subtract a constant, or leave the column out by data.columns=[NAMES]."
                )
            scaling = fitted(x[:, None], "standard")
            described = {"name": name, "mean": scaling.offset[0], "std": scaling.scale[0]}
            return described | {"decimals": decimals_of(texts), "is_whole": not texts.str.contains(r"[.eE]").any()}
        if name not in self.categorical and (shown := almost_numbers(texts)):
            raise UsageError(
                f"The column {name} of {self.path} is text, though its cells look like numbers, such as {shown!r}: "
                f"write plain numbers, or make it categorical by data.categorical=[{name}]."
            )
        categories = texts.astype("category").cat.categories.tolist()  # sorted
        if not 2 <= len(categories) <= MOST:
            raise UsageError(
                f"The column {name} of {self.path} has {len(categories):,} categories, but 2 to {MOST} are allowed: "
                "leave it out, listing the columns to keep by data.columns=[NAMES]."
            )
        return {"name": name, "categories": categories}

    def _numbers(self, values: "Series") -> np.ndarray:
        """A numeric column as float64, (n,)."""
        x = values.to_numpy(np.float64)
        if not np.isfinite(x).all():
            raise UsageError(
                f"The numeric column {values.name} of {self.path} has cells without a finite number: fill them in, "
                f"or make it categorical by data.categorical=[{values.name}]."
            )
        return x

    def _encode(self, column: Mapping[str, Any], values: "Series", texts: "Series") -> Tensor:
        """Encode a column for networks, (n, 1) or (n, categories)."""
        if "mean" in column:
            if not _is_numeric(values):
                raise UsageError(f"The column {column['name']} of {self.path} is no longer numeric: restore it.")
            return torch.from_numpy((self._numbers(values) - column["mean"]) / column["std"])[:, None].float()
        categories = column["categories"]
        if len(others := texts[~texts.isin(categories)]):
            raise UsageError(f"The column {column['name']} of {self.path} has the new category {others.min()!r}.")
        codes = texts.astype(pandas().CategoricalDtype(categories)).cat.codes
        return one_hot(torch.tensor(codes.to_numpy(np.int64)), len(categories)).float()

    def in_units(self, samples: Tensor) -> Tensor:
        """Samples as (N, columns) in float64: numbers in their units, categories as indices."""
        return decoded(samples, self.units["columns"])

    def frame(self, samples: Tensor) -> "DataFrame":
        """Convert samples (N, *sample_shape) to the columns, units and types of the file."""
        columns = self.units["columns"]
        values = self.in_units(samples).numpy().T
        typed = {column["name"]: _typed(column, x) for column, x in zip(columns, values, strict=True)}
        return pandas().DataFrame(typed)

    def write_csv(self, file: TextIO, samples: Tensor, classes: Sequence[str] | None = None) -> None:
        self.frame(samples).to_csv(file, index=False)

    def metrics(self) -> dict[str, Metric]:
        if not self.validation_samples:
            return {}
        # compared as they are written: without rounding, no generator would match the values of whole numbers
        in_units = partial(decoded, columns=self.units["columns"])
        return super().metrics() | {"table": TableMetrics(self.blocks, in_units)}

    def picture(self, samples: Batch, columns: int | None = None) -> Tensor:
        """Pairwise marginals in the columns' own units, categories as indices, over held-out rows."""
        held_out = None if self._held_out is None else self.in_units(self._held_out.x)
        names = [column["name"] for column in self.units["columns"]]
        return pictures.draw(self.in_units(samples.x), reference=held_out, names=names)


def decoded(samples: Tensor, columns: Sequence[Mapping[str, Any]]) -> Tensor:
    """Rows (N, sum of widths) as (N, columns) in float64: numbers in their units, categories as indices."""
    parts = samples.double().split([_width(column) for column in columns], -1)
    return torch.cat([_decoded(column, part) for column, part in zip(columns, parts, strict=True)], -1)


def _width(column: Mapping[str, Any]) -> int:
    return len(column.get("categories", [0]))


def _decoded(column: Mapping[str, Any], part: Tensor) -> Tensor:
    if "mean" not in column:
        return part.argmax(-1, keepdim=True).double()
    values = part * column["std"] + column["mean"]
    # adding 0 turns -0.0 into 0.0
    return values if column["decimals"] is None else values.round(decimals=column["decimals"]) + 0.0


def _typed(column: Mapping[str, Any], values: np.ndarray) -> Any:
    if "mean" not in column:
        return pandas().Categorical.from_codes(values.astype(int), column["categories"])
    is_whole = column.get("is_whole", column["decimals"] == 0) and np.abs(values).max(initial=0) < 2**63
    return values.astype(np.int64) if is_whole else values


def _is_numeric(values: "Series") -> bool:
    return values.dtype.kind in "iuf"


def almost_numbers(texts: "Series") -> str | None:
    """The first text that is not a plain number, if nine in ten are, or would be without units or decimal commas.

    None otherwise, and for few different texts, which may well be categories.
    """
    bare = texts.str.replace(r"[%$€£]|,(?=\d{3}\b)", "", regex=True)
    forms = texts, bare, texts.str.replace(",", ".", regex=False)
    plain, *others = (pandas().to_numeric(form, errors="coerce").notna() for form in forms)
    if texts.nunique() <= FEW or max(form.mean() for form in others) < 0.9:
        return None
    return next(iter(texts[~plain]), None)


def decimals_of(texts: Iterable[str]) -> int | None:
    """The largest number of decimals in these texts without final zeros; None if one has an exponent."""
    texts = [text.strip().lower() for text in texts]
    if any("e" in text for text in texts):
        return None
    return max(len(text.partition(".")[2].rstrip("0")) for text in texts)


def pandas() -> Any:
    """Import pandas, which only tables need.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module("pandas")
    except ModuleNotFoundError as error:
        raise UsageError("data=table needs the package pandas: pip install 'gan-lightning[table]'.") from error


def read_table(path: Path) -> tuple["DataFrame", "DataFrame", list[str]]:
    """Read the rows of a CSV file, with the types that pandas infers and as text, and what it calls nameless columns.

    Raises:
        UsageError: the file does not exist, or is not a table with rows and distinct column names.
    """
    if not path.is_file():
        raise UsageError(f"data.path={path} is not a file: give a CSV file with a header and rows.")
    read = partial(pandas().read_csv, path, encoding="utf-8-sig", index_col=False, low_memory=False)
    as_text, names = partial(read, dtype=str, keep_default_na=False), []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas().errors.ParserWarning)  # rows longer than the header
            names = as_text(header=None, nrows=1).iloc[0].tolist()
            typed, texts = read(), as_text()
    except pandas().errors.EmptyDataError as error:
        raise UsageError(f"data.path={path} is empty: give a CSV file with a header and rows.") from error
    except (OSError, ValueError, pandas().errors.ParserWarning) as error:
        _check_separator(path, names)  # rows with decimal commas have more cells than such a header
        raise UsageError(
            f"data.path={path} cannot be read as CSV ({one_line(error)}): give a file in UTF-8 whose rows have as many "
            "cells as its header."
        ) from error
    _check_separator(path, names, texts.iloc[:, 0])
    given = [name for name in names if name]
    if texts.empty or len(set(given)) < len(given):
        what = "has no rows" if texts.empty else "has two columns of the same name"
        raise UsageError(f"data.path={path} {what}: give a CSV file with a header of distinct names and rows.")
    for name in typed:  # pandas reads whole numbers of more than 64 bits as text
        if not _is_numeric(typed[name]) and texts[name].str.fullmatch(r"\s*[+-]?\d+\s*").all():
            typed[name] = typed[name].astype(float)
    return typed, texts, [column for column, name in zip(texts, names, strict=True) if not name]


def _check_separator(path: Path, names: Sequence[str], rows: Iterable[str] = ()) -> None:
    """Raise a UsageError if a header of one name, and these rows, have another separator than a comma."""
    lines = [*names, *rows]
    separator = next((mark for mark in (";", "\t", "|") if all(mark in line for line in lines)), None)
    if len(names) == 1 and separator is not None:
        raise UsageError(
            f"data.path={path} has {separator!r} between its columns: save it with commas, and with decimal points."
        )
