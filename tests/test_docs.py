"""README, CONTRIBUTING and docs/: commands, code, links, pictures and the API reference are held to the sources."""

import re
import shlex
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import lightning
import pytest
import yaml
from composing import CONF, composed
from conftest import ROOT
from helpers import load_script
from hydra.core.override_parser.overrides_parser import OverridesParser

import gan_lightning
from gan_lightning.config import check
from gan_lightning.options import parse

DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"))}
del PAGES["CHANGELOG.md"]
WRITTEN = [name for name in PAGES if "/api/" not in name]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
DIRECTIVE = re.compile(r"^::: (\S+)", re.MULTILINE)
CALLED = {"gan-train": "train.py"} | {
    f"gan-{name}": f"scripts/{name}.py" for name in ("sample", "evaluate", "export", "report")
}
ELSEWHERE = ("...", "NAME", "--config-dir", "PATH/train.py")  # abbreviated, or of the reader's own
PARTS = ("data", "game", "loss", "regularizer", "augment", "model", "prior", "schedule")


def commands(page: str) -> list[list[str]]:
    """The programs of this package that a page calls, each as its words, in blocks and between backticks."""
    text = PAGES[page].read_text()
    blocks = "".join(body for language, body in FENCED.findall(text) if not language)
    lines = [*blocks.replace("\\\n", " ").splitlines(), *INLINE.findall(FENCED.sub("", text).replace("\\|", "|"))]
    found = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # an apostrophe in what is no command
            continue
        words = words[1:] if words[:1] == ["python"] else words
        if words and (words[0] == "train.py" or words[0] in CALLED or words[0].startswith("scripts/")):
            found.append([CALLED.get(words[0], words[0]), *words[1:]])
    return [words for words in found if not set(words) & set(ELSEWHERE) and "experiment=NAME" not in words]


def written(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """What a page has of a pattern, with its name, once each."""
    return sorted({(page, found) for page, path in PAGES.items() for found in pattern.findall(path.read_text())})


def first_values(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Overrides, with the first value of each sweep, and every (group, option) that they choose."""
    overrides, chosen = [], []
    for override in OverridesParser.create().parse_overrides(words):
        key, text = override.key_or_group, override.input_line or ""
        values = [text.partition("=")[2]]
        if override.is_interval_sweep():
            values = [str(override.value().start)]  # type: ignore[union-attr]
        elif override.is_sweep_override():
            values = list(override.sweep_string_iterator())
        if (CONF / key.split("@")[0]).is_dir():
            chosen += [(key.split("@")[0], name) for value in values for name in value.strip("[]").split(",")]
        if not key.startswith("hydra"):
            overrides.append(f"{text.partition('=')[0]}={values[0]}")
    return overrides, chosen


def composes_already(override: str) -> bool:
    """Whether any experiment composes with it, which test_configs.py shows of each."""
    return override.partition("=")[0] in ("experiment", "seed", "name", "trainer.max_steps", "trainer.max_epochs")


@pytest.mark.parametrize("page", [page for page in WRITTEN if any(w[0] == "train.py" for w in commands(page))])
def test_every_run_composes(page: str) -> None:
    """With the options that it names, each of which exists; of a sweep all choices and the first of other values."""
    for script, *words in commands(page):
        options = [word for word in words if not word.startswith("-") and word != "job"]
        if script != "train.py" or any(word.startswith("resume=R") for word in options):
            continue
        overrides, chosen = first_values(options)
        for group, name in chosen:
            assert (CONF / group / f"{name}.yaml").exists(), (words, group, name)
        if not all(map(composes_already, overrides)):
            try:
                check(composed(*overrides), dict(chosen))
            except Exception as error:
                raise AssertionError(f"{page}: {shlex.join(words)}") from error


@pytest.mark.parametrize("page", [page for page in WRITTEN if any(w[0] != "train.py" for w in commands(page))])
def test_every_script_takes_its_options(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for script, *words in commands(page):
        if script == "train.py":
            continue
        assert (ROOT / script).exists(), script
        module = load_script(Path(script).stem)
        for word in words:
            name, _, value = word.partition("=")
            if name in ("checkpoint", "inputs", "data", "cifar"):
                Path(value, "MNIST", "raw").mkdir(parents=True, exist_ok=True)
            elif name == "samples":
                Path(value).touch()
        if words and words != ["--help"]:
            parse(module.Options, words)


def test_every_choice_between_backticks_exists() -> None:
    for page, text in written(INLINE):
        for group, names in re.findall(r"(?<![\w.@/])(\w+)=([\w,]+)(?![\w.*<\[{])", text):
            if (CONF / group).is_dir():
                for name in names.rstrip(",").split(","):
                    known = (CONF / group / f"{name}.yaml").exists() or name.isupper() or name in ("mine", "null")
                    assert known, f"{page}: {group}={name}"


def anchors(path: Path) -> set[str]:
    """The anchors of a page: its headings, as GitHub and MkDocs make them of plain words, and ids."""
    text = FENCED.sub("", path.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(
        re.findall(r'id="([^"]+)"', text)
    )


@pytest.mark.parametrize(("page", "link"), written(LINK))
def test_every_link_leads_somewhere(page: str, link: str) -> None:
    place, _, anchor = link.partition("#")
    if not place.startswith("http"):
        target = (PAGES[page].parent / place).resolve() if place else PAGES[page]
        assert target.is_file() or target.is_dir(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_every_picture_is_shown() -> None:
    shown = {Path(link).name for _, link in written(LINK)}
    assert {path.name for path in (DOCS / "images").iterdir()} <= shown


def test_every_page_is_in_the_navigation() -> None:
    navigation = str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | {"index.md", "contributing.md"}
    assert {page for page in pages if page not in navigation} == set()


def described() -> set[str]:
    """The modules and objects of the API reference."""
    return {name for _, name in written(DIRECTIVE)}


def test_the_reference_describes_what_exists_and_every_public_name_and_target() -> None:
    names = described()
    for name in names:
        module, _, last = name.rpartition(".")
        assert hasattr(import_module(module), last) or import_module(name)
    public = {f"gan_lightning.{room}.{name}" for room, given in gan_lightning.ROOMS.items() for name in given}
    targets = set()
    for group in PARTS:
        for path in (CONF / group).glob("*.yaml"):
            targets |= set(re.findall(r"_target_: (gan_lightning\.[\w.]+)", path.read_text()))
    missing = {name for name in public | targets if not {name, name.rpartition(".")[0]} & names}
    assert missing == set()


def test_the_readmes_snippet_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for its length and for what a Trainer writes and warns about."""
    monkeypatch.chdir(tmp_path)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    make = lightning.Trainer
    monkeypatch.setattr(lightning, "Trainer", lambda **given: make(**given | {"max_steps": 5}, **quiet))
    (block,) = (body for language, body in FENCED.findall((ROOT / "README.md").read_text()) if language == "python")
    names: dict[str, object] = {}
    exec(block, names)
    assert names["samples"].shape == (16, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", WRITTEN)
def test_every_import_of_a_snippet_works(page: str) -> None:
    for language, body in FENCED.findall(PAGES[page].read_text()):
        if language == "python":
            compile(body, page, "exec")
            exec("\n".join(takewhile(lambda line: line.startswith(("import", "from")), body.splitlines())), {})


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"]) == ("gan_lightning", gan_lightning.__version__)
    assert {"cff-version", "message", "authors"} <= set(citation)
