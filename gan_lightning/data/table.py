"""A table with numeric and categorical columns, as a CSV file has them."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics import Metric

from gan_lightning import pictures
from gan_lightning.batch import Batch
from gan_lightning.data.tensors import Source, TensorData
from gan_lightning.errors import UsageError
from gan_lightning.metrics.table import TableMetrics

MOST = 1000  # categories of a column


class TableData(TensorData):
    """The rows of a CSV file whose first line has the columns' names, numeric columns standardised, others one-hot.

    A column of whole numbers or of decimal ones is numeric, unless it is among ``categorical``; any other has a
    category for each of its different texts. ``columns`` are the names of those to keep, None for all. What samples
    have in numeric columns is rounded to as many decimals as the file has.
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
        return tuple(len(column.get("categories", [0])) for column in self.units["columns"])

    def load(self) -> Source:
        cells = read_cells(self.path)
        known = self.__dict__.get("units")  # from a checkpoint
        names = [column["name"] for column in known["columns"]] if known else self._names(cells)
        if absent := [name for name in names if name not in cells]:
            raise UsageError(f"{self.path} has no column {absent[0]}: it has {', '.join(cells)}.")
        described = known["columns"] if known else [self._describe(name, cells[name]) for name in names]
        parts = [self._encode(column, cells[column["name"]]) for column in described]
        return Source(Batch(torch.cat(parts, 1)), (), {"columns": described})

    def _names(self, cells: Mapping[str, list[str]]) -> list[str]:
        names = list(cells) if self.columns is None else self.columns
        if absent := [name for name in [*names, *self.categorical] if name not in cells]:
            raise UsageError(
                f"data names the column {absent[0]}, which {self.path} has not: it has {', '.join(cells)}."
            )
        return names

    def _describe(self, name: str, texts: list[str]) -> dict[str, Any]:
        """What a column is, in plain containers."""
        values = None if name in self.categorical else self._numbers(name, texts)
        if values is not None:
            std = float(values.std())
            decimals = decimals_of(texts)
            return {"name": name, "mean": float(values.mean()), "std": std or 1.0, "decimals": decimals}
        categories = sorted(set(texts))
        if not 2 <= len(categories) <= MOST:
            raise UsageError(
                f"The column {name} of {self.path} has {len(categories):,} categories, and 2 to {MOST} are possible: "
                "leave it out by data.columns=[NAMES], those to keep."
            )
        return {"name": name, "categories": categories}

    def _numbers(self, name: str, texts: list[str]) -> np.ndarray | None:
        """A column as float64, (n,); None where it has other texts than numbers."""
        try:
            values = np.array([float(text) for text in texts if text.strip()], dtype=np.float64)
        except ValueError:
            return None
        if not len(values):
            return None
        if len(values) < len(texts) or not np.isfinite(values).all():
            raise UsageError(
                f"The column {name} of {self.path} has numbers and, in some cells, no finite one: fill them in or "
                f"make it one of data.categorical=[{name}]."
            )
        return values

    def _encode(self, column: Mapping[str, Any], texts: list[str]) -> Tensor:
        """A column as networks see it, (n, 1) or (n, categories)."""
        if "mean" in column:
            values = self._numbers(column["name"], texts)
            if values is None:
                raise UsageError(f"The column {column['name']} of {self.path} is no longer numeric: put it back.")
            return torch.from_numpy((values - column["mean"]) / column["std"])[:, None].float()
        numbers = {text: i for i, text in enumerate(column["categories"])}
        if others := sorted(set(texts) - set(numbers)):
            raise UsageError(f"The column {column['name']} of {self.path} has the new category {others[0]!r}.")
        return one_hot(torch.tensor([numbers[text] for text in texts]), len(numbers)).float()

    def in_units(self, samples: Tensor) -> Tensor:
        """(N, columns) in float64: numbers in their units, categories by their number from 0."""
        parts = samples.double().split(self.blocks, -1)
        columns = self.units["columns"]
        return torch.cat([_decoded(column, part) for column, part in zip(columns, parts, strict=True)], -1)

    def records(self, samples: Tensor) -> tuple[list[str], Iterable[Sequence[Any]]]:
        columns = self.units["columns"]
        rows = self.in_units(samples).T.tolist()
        texts = [_texts(column, values) for column, values in zip(columns, rows, strict=True)]
        return [column["name"] for column in columns], zip(*texts, strict=True)

    def metrics(self) -> dict[str, Metric]:
        return super().metrics() | ({"table": TableMetrics(self.blocks)} if self.validation_samples else {})

    def picture(self, samples: Batch, columns: int | None = None) -> Tensor:
        """Pairwise marginals in the columns' own units, categories by their numbers, over held-out rows."""
        held_out = None if self._held_out is None else self.in_units(self._held_out.x).float()
        names = [column["name"] for column in self.units["columns"]]
        return pictures.draw(self.in_units(samples.x).float(), reference=held_out, names=names)


def _decoded(column: Mapping[str, Any], part: Tensor) -> Tensor:
    if "mean" not in column:
        return part.argmax(-1, keepdim=True).double()
    values = part * column["std"] + column["mean"]
    return values if column["decimals"] is None else values.round(decimals=column["decimals"])


def _texts(column: Mapping[str, Any], values: list[float]) -> list[Any]:
    if "mean" not in column:
        return [column["categories"][int(value)] for value in values]
    return [int(value) for value in values] if column["decimals"] == 0 else values


def decimals_of(texts: Iterable[str]) -> int | None:
    """The most decimals that a number among these has, 0 for whole ones; None where one has an exponent."""
    texts = [text.strip().lower() for text in texts]
    if any("e" in text for text in texts):
        return None
    return max(len(text.partition(".")[2]) for text in texts)


def read_cells(path: Path) -> dict[str, list[str]]:
    """The texts of a CSV file by the names of its columns.

    Raises:
        UsageError: there is no such file, or it is no table of equally long rows under different names.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names, *rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"data.path={path} cannot be read as CSV ({error}): give a file in UTF-8.") from error
    except ValueError as error:
        raise UsageError(f"data.path={path} is empty: give a CSV file with a line of names and rows.") from error
    if not rows or len(set(names)) < len(names):
        what = "has no rows" if not rows else "has two columns of one name"
        raise UsageError(f"data.path={path} {what}: give a CSV file with a line of different names and rows.")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise UsageError(f"Row {number} of {path} has {len(row)} cells under {len(names)} names: mend it.")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
