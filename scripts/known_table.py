"""Write a table with a known distribution as CSV, or measure how close other rows are to that distribution.

    python scripts/known_table.py out=law.csv [n=10000 seed=0]
    python scripts/known_table.py samples=samples.csv

The table has five numeric and three categorical columns. For samples, prints the KS distance of each numeric column,
the largest error of a category's share in each categorical column, and the largest error of a correlation between two
numeric columns, all against a million rows of the distribution.
"""

from gan_lightning.interruption import end_at_once, listen

if __name__ == "__main__":
    listen(end_at_once)  # before the slow imports

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gan_lightning.checks import SEED, SIZE, check_values, optional
from gan_lightning.errors import UsageError
from gan_lightning.files import written_aside
from gan_lightning.options import read_options, refusals

if TYPE_CHECKING:
    from pandas import DataFrame

NUMERIC = ("height", "weight", "age", "income", "score")
CATEGORICAL = ("sex", "city", "plan")
ROWS = 10_000
REFERENCE = 1_000_000  # rows, drawn with the largest seed
REFERENCE_SEED = 2**32 - 1


@dataclass
class Options:
    out: Annotated[Path | None, "output CSV file for rows of the distribution"] = None
    samples: Annotated[Path | None, "CSV file of rows to compare with the distribution"] = None
    n: Annotated[int | None, f"number of rows to write; null for {ROWS}"] = None
    seed: Annotated[int | None, "seed of these rows; null for 0"] = None

    def __post_init__(self) -> None:
        check_values(self, n=optional(SIZE), seed=optional(SEED))
        if (self.out is None) == (self.samples is None):
            raise UsageError("Give either out=FILE, to write rows, or samples=FILE, to compare rows.")
        if self.samples is not None and (self.n, self.seed) != (None, None):
            raise UsageError("n and seed apply to the rows that out=FILE writes: leave them out.")
        if self.samples is not None and not self.samples.is_file():
            raise UsageError(f"{self.samples} is not a file: give a CSV file of samples.")


def law(n: int, seed: int) -> "DataFrame":
    """Draw n rows with the columns height, weight, age, income, score, sex, city and plan.

    height is bimodal by sex, and weight is linear in height plus noise; age is uniform in whole years from 18 to 79;
    log income is normal around a line in age and higher under plan a; score is bimodal, with Oslo as the lower mode.
    The cities have the shares 0.5, 0.3, 0.15 and 0.05; plan a has a share of 0.8 in the first two, else of 0.3.
    """
    import numpy as np
    import pandas as pd

    noise = np.random.default_rng(seed)
    sex = noise.integers(0, 2, n)
    city = noise.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])
    plan = noise.random(n) < np.array([0.8, 0.8, 0.3, 0.3])[city]
    height = 162 + 16 * sex + 5 * noise.normal(size=n)
    weight = 70 + 0.9 * (height - 170) + 8 * noise.normal(size=n)
    age = noise.integers(18, 80, n)
    income = np.exp(9.5 + 0.015 * age + 0.4 * plan + 0.4 * noise.normal(size=n))
    score = np.where(city == 1, -2.5, 1.0) + 0.7 * noise.normal(size=n)
    return pd.DataFrame(
        {
            "height": height.round(1),
            "weight": weight.round(1),
            "age": age,
            "income": income.round(2),
            "score": score.round(4),
            "sex": np.array(["f", "m"])[sex],
            "city": np.array(["Bern", "Oslo", "Rome", "Wien, XX"])[city],
            "plan": np.where(plan, "a", "b"),
        }
    )


def errors(samples: "DataFrame") -> dict[str, float]:
    """Errors by name: ks per numeric column, share per categorical one, and correlation, the largest over all pairs.

    Raises:
        UsageError: the samples lack a column.
    """
    from scipy.stats import ks_2samp

    if absent := [name for name in (*NUMERIC, *CATEGORICAL) if name not in samples]:
        raise UsageError(f"The samples have no column {absent[0]}: give rows of a run on what out=law.csv wrote.")
    if len(samples) < 2:
        raise UsageError("There are fewer than 2 samples: give at least 2 rows.")
    for name in NUMERIC:
        if samples[name].dtype.kind not in "iuf" or samples[name].isna().any():
            raise UsageError(f"The column {name} of the samples has cells that are not numbers: correct them.")
    truth = law(REFERENCE, REFERENCE_SEED)
    found = {f"ks {name}": float(ks_2samp(samples[name], truth[name]).statistic) for name in NUMERIC}
    for name in CATEGORICAL:
        shares = (part[name].value_counts(normalize=True) for part in (samples, truth))
        found[f"share {name}"] = float(next(shares).sub(next(shares), fill_value=0).abs().max())
    numbers = list(NUMERIC)
    difference = samples[numbers].corr() - truth[numbers].corr()
    return found | {"correlation": float(difference.abs().to_numpy().max())}


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals(options.out):
        if options.out is not None:
            with written_aside(options.out) as aside:
                law(options.n or ROWS, options.seed or 0).to_csv(aside, index=False)
        else:
            import pandas as pd

            try:
                samples = pd.read_csv(options.samples)
            except ValueError as error:
                raise UsageError(f"samples={options.samples} is no CSV file ({error}): give one.") from error
            for name, difference in errors(samples).items():
                print(f"{name:<13} {difference:.4f}")


if __name__ == "__main__":
    main()
