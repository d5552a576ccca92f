"""name=value options of scripts: read, explained, refused."""

import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated

import pytest
from omegaconf import MISSING

from gan_lightning.errors import UsageError
from gan_lightning.options import parse, read_options


class Mode(Enum):
    one = 1
    two = 2


@dataclass
class Options:
    checkpoint: Annotated[str, "where it is"] = MISSING
    n: Annotated[int, "how many"] = 64
    limit: Annotated[float | None, "how far"] = None
    exact: bool = False
    mode: Mode = Mode.one
    names: list[str] = field(default_factory=lambda: ["a", "b"])
    out: Path | None = None
    folders: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"n is {self.n}: give more.")


def test_defaults_and_values() -> None:
    assert parse(Options, ["checkpoint=run"]) == Options("run", 64, None, False, Mode.one, ["a", "b"])
    arguments = ["mode=two", "names=[c]", "limit=1e-3", "n=3", "exact=true", "checkpoint=run"]
    assert parse(Options, arguments) == Options("run", 3, 0.001, True, Mode.two, ["c"])
    assert parse(Options, ["checkpoint=run", "limit=2", "limit=null"]).limit is None


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        *(("[007,010]", ["007", "010"]), ("[yes, no, null]", ["yes", "no", "null"]), ("[1e3]", ["1e3"]), ("[]", [])),
        ("['a, b',c]", ["a, b", "c"]),
    ],
)
def test_texts_in_a_list_are_as_typed(typed: str, names: list[str]) -> None:
    """YAML would read 010 as the number 8."""
    assert parse(Options, ["checkpoint=run", f"names={typed}"]).names == names


PATHS = [
    *("007", "2026-01-01", "true", "???", "runs/seed=0,lr=1e-3", "=", "out=b", "a b", " a ", "{x}", "[1]", "[a, b]"),
    *(
        "a: b",
        "#a",
        "a #b",
        "a~",
        "'a'",
        '"a',
        "&a",
        "*",
        "!a",
        "%a",
        "a\\b",
        "a\tb",
        "${n}",
        "${",
        "Straße/图 é",
    ),
]


@pytest.mark.parametrize("path", PATHS)
def test_text_and_paths_are_taken_as_typed(path: str) -> None:
    options = parse(Options, [f"checkpoint={path}", f"out={path}", f"folders={path}"])
    assert (options.checkpoint, options.out, options.folders) == (path, Path(path), [Path(path)])


@pytest.mark.parametrize("typed", ["~", "~/a b"])
def test_a_tilde_is_the_home_folder(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    options = parse(Options, [f"checkpoint={typed}", f"out={typed}", f"folders={typed}", "folders=~no_such_user/a"])
    path = Path(typed.replace("~", "/home/me"))
    assert (options.checkpoint, options.out, options.folders) == (typed, path, [path, Path("~no_such_user/a")])


def test_a_list_of_paths_is_given_one_by_one() -> None:
    assert parse(Options, ["checkpoint=a"]).folders == []
    assert parse(Options, ["folders=a=1,b", "checkpoint=c", "folders=[a]"]).folders == [Path("a=1,b"), Path("[a]")]


def test_null_is_none_only_where_there_may_be_none() -> None:
    options = parse(Options, ["checkpoint=null", "out=null", "folders=null"])
    assert (options.checkpoint, options.out, options.folders) == ("null", None, [Path("null")])


REFUSED = [
    ([], "checkpoint is not set: give checkpoint=VALUE"),
    (["checkpoint="], "checkpoint is '': give a string."),
    (["out="], "out is '': give a path or null."),
    (["folders="], "folders is '': give a path."),
    (["limit="], "limit is '': give a number or null."),
    (["names="], "names is '': give a list, such as [a,b]."),
    (["run"], "run is not an option: give name=value, such as checkpoint=run."),
    (["--n", "3"], "--n is not an option: give name=value, such as n=VALUE."),
    (["--size", "3"], "--size is not an option: give name=value, such as checkpoint=--size."),
    (["size=3"], "size=3 is not an option: choose from checkpoint, n, limit, exact, mode, names, out, folders"),
    (["n.a=3"], "n.a=3 is not an option"),
    (["=3"], "=3 is not an option"),
    (["n=many"], "n is 'many': give a whole number."),
    (["n=1.5"], "n is '1.5': give a whole number."),
    (["n=true"], "n is 'true': give a whole number."),
    (["n=null"], "n is 'null': give a whole number."),
    (["n="], "n is '': give a whole number."),
    (["n=[1"], "n is '[1': give a whole number."),
    (["n=${absent}"], "n is '${absent}': give a whole number."),
    (["limit=far"], "limit is 'far': give a number or null."),
    (["exact=perhaps"], "exact is 'perhaps': give true or false."),
    (["mode=three"], "mode is 'three': give one of one, two."),
    (["names=3"], "names is '3': give a list, such as [a,b]."),
    (["checkpoint=run", "n=0"], "n is 0: give more."),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=[" ".join(a) or "none" for a, _ in REFUSED])
def test_what_cannot_be_used_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        read_options(Options, "A script.")
    # a text is printed to stderr and makes the exit status 1
    assert isinstance(ended.value.code, str)
    assert ended.value.code.startswith(f"Error: {sentence}")
    assert "\n" not in ended.value.code


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_the_document_and_every_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "n=many", flag])
    with pytest.raises(SystemExit) as ended:
        read_options(Options, "A script.\n\n    python script.py\n")
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["A script.", "", "    python script.py", ""]
    assert [line.split(maxsplit=1)[0] for line in lines[5:]] == [
        "n=64",
        "limit=null",
        "exact=false",
        "mode=one",
        "names=[a,b]",
        "out=null",
        "folders=[]",
    ]
    assert lines[4].split() == ["checkpoint=(required)", "where", "it", "is"]
    assert lines[5].endswith("  how many")
