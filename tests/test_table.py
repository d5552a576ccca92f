"""A table of numbers and categories: read, trained on, resumed, measured, and written as it was."""

import csv
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TOY, counts, load_script, trained
from scipy.stats import ks_2samp
from test_arrays import SMALL, run_script
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.checkpoints import load
from gan_lightning.data.table import TableData
from gan_lightning.errors import UsageError
from gan_lightning.metrics.table import TableMetrics
from gan_lightning.networks.table import Generator, gumbel
from gan_lightning.resumption import resume
from gan_lightning.training import train

LAW = load_script("known_table")


def write_law(path: Path, n: int, seed: int = 0) -> Path:
    LAW.law(n, seed).to_csv(path, index=False)
    return path


def read(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    return names, rows


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="latin-1")
    return path


def made(path: Path, **options: Any) -> TableData:
    data = TableData(str(path), 8, **options)
    data.trainer = counts(critic_steps=1)
    data.setup()
    return data


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Numbers with their decimals, whole ones without any, texts with their commas and zeros, or none."""
    path = write(
        tmp_path / "t.csv",
        'size,n,zip,"a name",yes,s\n1.25,3,007,"x, y",true,1e3\n-2.5,-4,010,NA,false,2.5e-1\n0.75,12,007,,true,0.1\n',
    )
    data = made(path, categorical=["zip"], held_out_share=0.0)
    assert data.sample_shape == (1 + 1 + 2 + 3 + 2 + 1,)
    assert data.blocks == (1, 1, 2, 3, 2, 1)
    assert data.monitor is None
    with (tmp_path / "back.csv").open("w") as file:
        data.write_csv(file, data._training.x)
    names, rows = read(tmp_path / "back.csv")
    assert names == ["size", "n", "zip", "a name", "yes", "s"]
    assert sorted(row[:5] for row in rows) == sorted(row[:5] for row in read(path)[1])
    np.testing.assert_allclose(sorted(float(row[5]) for row in rows), [0.1, 0.25, 1000], rtol=1e-3)
    assert [kind.kind for kind in data.frame(data._training.x).dtypes] == ["f", "i", "O", "O", "O", "f"]


def test_columns_are_standardized_and_categories_one_hot(tmp_path: Path) -> None:
    data = made(write_law(tmp_path / "law.csv", 300))
    x = torch.cat([data._training.x, data.held_out_samples(1000).x])
    torch.testing.assert_close(x[:, :5].mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(x[:, :5].std(0, correction=0), torch.ones(5), atol=1e-5, rtol=0)
    assert data.blocks == (1, 1, 1, 1, 1, 2, 4, 2)
    for part in x.split(data.blocks, 1)[5:]:
        assert torch.equal(part.sum(1), torch.ones(300))
    texts = Counter(data.frame(x)[list(LAW.CATEGORICAL)].itertuples(index=False, name=None))
    assert texts == Counter(tuple(row[5:]) for row in read(tmp_path / "law.csv")[1])


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("", {}, r"data.path=.* is empty: give a CSV file"),
        ("a,b\n", {}, r"has no rows: give a CSV file"),
        ("a,a\n1,2\n", {}, r"has two columns of the same name"),
        ("a,b\n1,2\n3\n", {}, r"The numeric column b of .* has cells without a finite number"),
        ("a,b\n1,2\n3,4,5\n", {}, r"cannot be read as CSV \(.*Expected 2 fields in line 3, saw 3\): give"),
        ("a,b\n1,2,3\n", {}, r"cannot be read as CSV \(.*Length of header .*\): give a file in UTF-8 whose rows"),
        ("a,b\n1,\xe9\n", {}, r"cannot be read as CSV \(.*decode byte.*\): give a file in UTF-8"),
        ("a,b\n1,2\n,4\n", {}, r"The numeric column a of .* has cells without a finite number"),
        ("a,b\n1,2\nnan,4\n", {}, r"The numeric column a of .* has cells without a finite number"),
        ("a,b\n1,x\n2,x\n", {}, r"The column b of .* has 1 categories, but 2 to 1000 are allowed"),
        ("a;b\n1;2\n", {}, r"has ';' between its columns: save it with commas"),
        ("a\tb\n1\t2\n", {}, r"between its columns: save it with commas"),
        ("a,b\n1,2\n", {"columns": []}, r"data\.columns is \[\]: give at least one name, each once, or null for all"),
        ("a,b\n1,2\n", {"columns": ["a", "a"]}, r"data\.columns is \['a', 'a'\]: give at least one name, each once"),
        ("a,b\n1,2\n", {"columns": ["c"]}, r"data names the column c, which is not in .*: it has a, b\."),
        ("a,b\n1,2\n", {"categorical": ["c"]}, r"data names the column c, which is not in "),
        (
            "a,b\n1,2\n",
            {"columns": ["a"], "categorical": ["b"]},
            r"data\.categorical names b, which data\.columns",
        ),
        ("a|b\n1|2\n3|4\n", {}, r"has '\|' between its columns: save it with commas"),
        ("a;b\n0,5;0,25\n1,5;0,75\n", {}, r"has ';' between its columns: save it with commas, and with decimal points"),
        (
            "a,b\n" + "".join(f'"{i},5",{i}\n' for i in range(30)),
            {},
            r"The column a of .* look like numbers, such as '0,5': write plain numbers",
        ),
        (",a,b\n0,1,x\n1,2,y\n", {}, r"has no name for column 1 of 3, as pandas writes its index: give it a name"),
        ("a,b,\n1,2,\n3,4,\n", {}, r"has no name for column 3 of 3"),
        ("a,,\n1,2,3\n", {}, r"has no name for column 2 of 3"),
        (
            "a,b\n" + "".join(f"{10**18 + i},{i}\n" for i in range(31)),
            {},
            r"The column a of .* has numbers such as 1000000000000000000, whose differences a float64 cannot hold",
        ),
        (
            "a,b\n" + "".join(f"1,{i}%\n" for i in range(30)),
            {},
            r"The column b of .* is text, though its cells look like numbers, such as '0%'",
        ),
        (
            "a,b\n" + "".join(f'1,"{i},100"\n' for i in range(1, 30)),
            {},
            r"look like numbers, such as '1,100': write plain",
        ),
        (
            "a,b\n" + "".join(f"1,{i}\n" for i in range(30)) + "1,none yet\n",
            {},
            r"such as 'none yet': .*categorical=\[b\]",
        ),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        made(write(tmp_path / "t.csv", text), **options)


def test_a_nameless_column_may_be_left_out(tmp_path: Path) -> None:
    data = made(write(tmp_path / "t.csv", ",a,b\n0,1,x\n1,2,y\n2,4,x\n"), columns=["a", "b"], held_out_share=0.0)
    assert [column["name"] for column in data.units["columns"]] == ["a", "b"]


def test_a_large_number_among_small_ones_that_are_written_differently_is_read(tmp_path: Path) -> None:
    data = made(write(tmp_path / "t.csv", f"a,b\n0,1\n0.0,2\n{2**60},3\n"), held_out_share=0.0)
    assert data.in_units(data._training.x)[:, 0].max() == pytest.approx(2**60, rel=1e-6)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UsageError, match=r"data\.path=.* is not a file: give a CSV file with a header and rows\."):
            made(path)


def test_whole_numbers_beyond_int64_are_written_as_they_are(tmp_path: Path) -> None:
    data = made(write(tmp_path / "t.csv", "a,b\n" + "".join(f"{2**65 - i * 2**60},{i}\n" for i in range(40))))
    drawn = data.frame(data.held_out_samples(4).x)
    assert_close(
        torch.tensor(drawn["a"]), 2.0**65 - torch.tensor(drawn["b"], dtype=torch.double) * 2.0**60, rtol=1e-6, atol=0
    )
    assert drawn["b"].dtype.kind == "i"


def test_categories_may_look_like_numbers_and_a_name_may_have_a_separator(tmp_path: Path) -> None:
    data = made(write(tmp_path / "t.csv", "P(a|b)\n" + "0\n1\n2\n" * 30 + "3+\n" * 3))
    assert data.units["columns"][0]["categories"] == ["0", "1", "2", "3+"]


def test_a_held_out_share_of_less_than_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"held_out_share is 0\.001, less than one of 3 samples: give a larger share"):
        made(write(tmp_path / "t.csv", "a,b\n1,2\n2,3\n3,4\n"), held_out_share=0.001).setup()


def test_one_numeric_column_has_no_correlation(tmp_path: Path) -> None:
    data = made(write(tmp_path / "t.csv", "a,b\n" + "".join(f"{i},{'xy'[i % 2]}\n" for i in range(100))))
    metric = data.metrics()["table"]
    metric.update(Batch(data.held_out_samples(100).x), data.held_out_samples(100))
    assert metric.compute() == {"ks": 0, "share_error": 0}


def test_only_tables_need_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as where it is not installed
    trained(tmp_path / "run", *TOY)
    with pytest.raises(UsageError, match=r"data=table needs the package pandas: pip install 'gan-lightning\[table\]'"):
        made(write(tmp_path / "t.csv", "a,b\n1,x\n2,y\n"))


def test_a_column_that_changed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n1,x\n2,y\n")
    first = TableData(str(path), 8)
    described = {"sample_shape": first.sample_shape, "class_names": (), "units": first.units}
    for text, sentence in (
        ("a,b\n1,x\n2,z\n", "has the new category 'z'"),
        ("a,b\nq,x\n2,y\n", "no longer numeric"),
        ("a,c\n1,x\n2,y\n", "has no column b: it has a, c."),
    ):
        data = TableData(str(write(path, text)), 8)
        data.recall(described)
        with pytest.raises(UsageError, match=sentence):
            data.setup()


def test_constant_columns_count_in_no_metric(tmp_path: Path) -> None:
    """They have a scale of their own in the data, and no distribution to differ from."""
    rows = "".join(f"0.1,{i},{2 * i}\n" for i in range(100))
    data = made(write(tmp_path / "t.csv", f"a,b,c\n{rows}"))
    held_out = data.held_out_samples(100)
    assert data._training.x[:, 0].abs().max() < 1e-6
    metric = data.metrics()["table"]
    metric.update(Batch(held_out.x + torch.tensor([0.3, 0.0, 0.0])), held_out)
    assert metric.compute() == {"ks": 0, "correlation_error": 0}


def test_written_numbers_have_the_form_of_those_in_the_file(tmp_path: Path) -> None:
    """No fractions where all decimals are zeros, no zero with a sign; a name may be NA."""
    rows = "".join(f"{i}.0,{(-1) ** i * (i % 5) / 10},{i / 4:.2f}\n" for i in range(40))
    data = made(write(tmp_path / "t.csv", f"NA,b,c\n{rows}"), held_out_share=0.0)
    with (tmp_path / "drawn.csv").open("w") as file:
        data.write_csv(file, torch.randn(500, 3, generator=torch.Generator().manual_seed(0)))
    names, drawn = read(tmp_path / "drawn.csv")
    assert names == ["NA", "b", "c"]
    a, b, c = zip(*drawn, strict=True)
    assert all(text.endswith(".0") for text in a)
    assert "0.0" in b
    assert "-0.0" not in b
    assert {len(text.partition(".")[2]) for text in c} == {1, 2}


def test_rows_are_compared_as_they_are_written(tmp_path: Path) -> None:
    """A generator whose rows are written as the real ones are differs from them in nothing, whatever is rounded."""
    noise = np.random.default_rng(0)
    rows = "".join(
        f"{noise.integers(2)},{noise.poisson(2)},{noise.normal():.2f},{'xyz'[noise.integers(3)]}\n" for _ in range(400)
    )
    data = made(write(tmp_path / "t.csv", f"smoker,children,size,city\n{rows}"), held_out_share=0.5)
    real, other = data.held_out_samples(200), data.training_samples(200, seed=0).x
    metric = data.metrics()["table"]
    near = real.x + 1e-3 * torch.randn(real.x.shape, generator=torch.Generator().manual_seed(0))
    metric.update(Batch(near), real)
    assert metric.compute() == {"ks": 0, "correlation_error": 0, "share_error": 0}
    metric.reset()
    metric.update(Batch(other), real)
    a, b = (data.frame(part) for part in (other, real.x))
    expected = max(ks_2samp(a[name], b[name]).statistic for name in ("smoker", "children", "size"))
    assert metric.compute()["ks"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("first", [20230101, 1_700_000_000, 10**15, 2**60])
def test_large_close_numbers_are_drawn(tmp_path: Path, first: int) -> None:
    step = max(1, first // 2**50)
    rows = "".join(f"{first + i * step},{i},{2 * i}\n" for i in range(31))
    data = made(write(tmp_path / "t.csv", f"date,b,c\n{rows}"))
    assert data.picture(data.held_out_samples(10)).shape[0] == 3


def test_the_metrics_are_those_of_other_libraries() -> None:
    noise = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 4, generator=noise), torch.randn(150, 4, generator=noise) @ torch.randn(4, 4)
    metric = TableMetrics((1, 1, 2), lambda x: torch.cat([x[:, :2], x[:, 2:].argmax(1, keepdim=True)], 1).double())
    metric.update(Batch(x), Batch(y))
    found = metric.compute()
    assert found["ks"].item() == pytest.approx(max(ks_2samp(x[:, i], y[:, i]).statistic for i in (0, 1)), rel=1e-5)
    expected = abs(np.corrcoef(x[:, :2].T)[0, 1] - np.corrcoef(y[:, :2].T)[0, 1])
    assert found["correlation_error"].item() == pytest.approx(expected, rel=1e-4)
    shares = [(part[:, 2] >= part[:, 3]).float().mean() for part in (x, y)]
    assert found["share_error"].item() == pytest.approx(abs(shares[0] - shares[1]).item(), rel=1e-5)


def test_categories_are_drawn_by_the_softmax_of_their_logits() -> None:
    """The Gumbel-max trick, with noise that is made of normal latents; and the gradient reaches the logits."""
    network = Generator(5, (4,), [8], batch_norm=False, blocks=(1, 3))
    for weight in network.body.layers[-1].parameters():
        torch.nn.init.zeros_(weight)
    network.body.layers[-1].bias.data[1:] = torch.tensor([0.5, 0.3, 0.2]).log()
    x = network(torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(x[:, 1:].sum(1), torch.ones(20_000))
    assert set(x[:, 1:].detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    shares = x[:, 1:].detach().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=4 * math.sqrt(0.25 / 20_000), rtol=0)
    (x[:, 1:] * torch.tensor([1.0, 0.0, 0.0])).sum().backward()
    gradient = network.body.layers[-1].bias.grad
    assert gradient[0] == 0
    assert gradient[1] > 0 > gradient[2]
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    assert gumbel(z).mean().item() == pytest.approx(0.5772, abs=0.03)  # Euler's constant
    with pytest.raises(UsageError, match=r"model.latent_size is 3: give more than 3, since each category"):
        Generator(3, (4,), [8], blocks=(1, 3))
    with pytest.raises(UsageError, match=r"model=table makes rows, but samples have shape \(3, 8, 8\)"):
        Generator(3, (3, 8, 8), [8])


def test_a_table_is_trained_on_resumed_measured_exported_and_written(tmp_path: Path) -> None:
    path = write_law(tmp_path / "law.csv", 200)
    columns = ["height", "age", "sex", "city"]
    options = ("data=table", f"data.path={path}", f"data.columns={columns}", "model.generator.widths=[8]", *SMALL)
    pictures = ("callbacks=default", "callbacks.samples.every_n_steps=100")  # at both ends
    straight = trained(tmp_path / "straight", *options, *pictures)
    broken = trained(tmp_path / "broken", *options, "~callbacks.samples", "trainer.max_steps=6")
    train(resume(broken, ["trainer.max_steps=12"]), broken)
    a, b = load(straight), load(broken)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    logged = json.loads((straight / "metrics.json").read_text())
    assert {"val/ks", "val/share_error", "val/correlation_error", "val/energy", "val/c2st"} <= set(logged)
    run_script(load_script("evaluate"), f"checkpoint={straight}")
    assert all(logged[k] == v for k, v in json.loads((straight / "evaluation.json").read_text())["metrics"].items())
    path.unlink()
    run_script(load_script("export"), f"checkpoint={straight}", f"out={tmp_path / 'g.pt2'}")
    run_script(load_script("sample"), f"checkpoint={straight}", f"out={tmp_path / 'samples.csv'}", "n=50")
    names, rows = read(tmp_path / "samples.csv")
    assert (names, len(rows)) == (columns, 50)
    for height, age, sex, city in rows:
        assert len(height.partition(".")[2]) == 1
        assert int(age) == float(age)
        assert (sex in "mf", city in ("Bern", "Oslo", "Rome", "Wien, XX")) == (True, True)


def test_how_near_rows_are_to_the_law(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the law are near it; scaled, shuffled and chosen ones are not."""
    monkeypatch.setattr(LAW, "REFERENCE", 50_000)
    run_script(LAW, f"out={tmp_path / 'law.csv'}", "n=20000")
    run_script(LAW, f"samples={tmp_path / 'law.csv'}")
    printed = {line[:13].strip(): float(line[13:]) for line in capsys.readouterr().out.splitlines()}
    assert len(printed) == 9
    assert max(printed.values()) < 0.05
    rows = LAW.law(5000, 1)
    rows["income"] *= 2
    rows["height"] = rows["height"].sample(frac=1, random_state=0).to_numpy()
    wrong = LAW.errors(rows[rows["city"] != "Bern"])
    assert wrong["ks income"] > 0.3
    assert wrong["correlation"] > 0.5
    assert wrong["share city"] == pytest.approx(0.5, abs=0.01)
    with pytest.raises(SystemExit, match="n and seed apply to the rows that out=FILE writes: leave them out"):
        run_script(LAW, f"samples={tmp_path / 'law.csv'}", "n=5")
    with pytest.raises(UsageError, match="There are fewer than 2 samples"):
        LAW.errors(rows[:1])
    with pytest.raises(UsageError, match="The column age of the samples has cells that are not numbers"):
        LAW.errors(rows.assign(age=rows["age"].astype(str)))
