"""What a configuration from a file may make, tried with a payload at every node of a real one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from omegaconf import DictConfig, OmegaConf

from gan_lightning.checkpoints import load
from gan_lightning.errors import UsageError
from gan_lightning.resumption import resume
from gan_lightning.trust import LARGEST, MOST, check_file, foreign_packages, read_config

Configure = Callable[..., DictConfig]
SECRET = "swordfish-4711"

KINDS = [
    "gan_lightning.losses.Hinge",
    "gan_lightning.networks.mlp.Generator",
    "gan_lightning.callbacks.samples.SamplePictures",
    "gan_lightning.callbacks.progress.progress",
    "gan_lightning.optim.cosine",
    "gan_lightning.distributions.ring",
    "gan_lightning.gan.GAN",
    "torch.nn.Linear",
    "torch.optim.AdamW",
    "torch.optim.lr_scheduler.StepLR",
    "torch.distributions.MultivariateNormal",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.profilers.SimpleProfiler",
]
FOREIGN = [
    *("os.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.hub.load", "torch.utils.collect_env.run"),
    *("torch.nn.functional.relu", "torch.nn.init.normal_", "torch.nn.modules.os.system", "torch.optim.adam.torch.load"),
    *("torch.optim.lr_scheduler.types.FunctionType", "lightning.fabric.x", "lightning.pytorch.trainer.Trainer"),
    *("lightning.pytorch.callbacks.os.system", "hydra.utils.get_method", "hydra.utils.instantiate", "hydra.utils.call"),
    *("gan_lightning", "gan_lightning.losses", "gan_lightning..losses.Hinge", "gan_lightnings.losses.Hinge"),
    *("gan_lightning.data.../losses.Hinge", "gan_lightning.losses.relu", "gan_lightning.losses.NonSaturating.__init__"),
    *("gan_lightning.build.made", "gan_lightning.checkpoints.load", "gan_lightning.build.torch.load"),
    *("gan_lightning.options._read", "gan_lightning.resumption.resume", "gan_lightning.config.check"),
    *("gan_lightning.callbacks.periodic.show", "gan_lightning.optim.Optimizer", "gan_lightning.trust.check_file"),
    *("gan_lightning.data.loader.own_stream", "gan_lightning.data.folder.Path", "gan_lightning.ema.MovingAverage"),
    *(
        " os.system",
        "os.system ",
        "os .system",
        ".os.system",
        "os..system",
        "os.system\n",
        "torch.nn.Linear\n",
        "os",
        "",
    ),
    *(
        "torch.nn. Linear",
        "\uff54orch.nn.Linear",
        "torch.nn.Line\u0430r",
        "gan_lightning.losses.Hinge ",
        5,
        None,
        True,
        1.5,
    ),
    *(5, None, True, 1.5, ["os.system"], {"_target_": "os.system"}, [["torch.nn.Linear"]]),
]


def payloads(mark: Path) -> dict[str, Any]:
    """Values that would run a command, or read the environment, by all ways that are known."""
    run = {"_target_": "torch.utils.collect_env.run", "command": f"touch {mark}"}
    text = f"{{_target_: torch.utils.collect_env.run, command: 'touch {mark}'}}"
    reader = {"_target_": "gan_lightning.options._read", "kind": None, "text": text}
    return {
        "mapping": run,
        "list": [run],
        "lists": [[1, [run]]],
        "args": {"_target_": "torch.nn.Sequential", "_args_": [run]},
        "partial": {**run, "_partial_": True},
        "not recursive": {"_target_": "torch.nn.Sequential", "_recursive_": False, "x": run},
        "below options": {"a": {"b": [{"c": run}]}},
        "created": f"${{oc.create:[{text}]}}",
        "read again": {"_target_": "gan_lightning.build.made", "config": reader},
        "environment": "${oc.env:SECRET}",
        "within a text": "a${oc.env:SECRET}b",
        "escaped": "\\${oc.env:SECRET}",
        "key": {"${oc.env:SECRET}": 1},
    }


def nodes(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all mappings and lists of plain data."""
    if isinstance(node, dict | list):
        yield place
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from nodes(value, (*place, key))


def planted(config: Any, place: tuple[Any, ...], payload: Any) -> Iterator[Any]:
    """Copies of a configuration with the payload in that mapping, under new keys and in a value's place, or list."""
    for key in ("payload", "_args_", "_partial_", "_convert_", "_recursive_", ...):
        changed = deepcopy(config)
        node = changed
        for step in place:
            node = node[step]
        if isinstance(node, list):
            node.append(payload)
        elif key is ...:
            node[next(iter(node), "payload")] = payload
        else:
            node[key] = [payload] if key == "_args_" else payload
        yield changed


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a payload would make; and a secret in the environment."""
    monkeypatch.setenv("SECRET", SECRET)
    return tmp_path / "ran"


@pytest.fixture
def content(configure: Configure) -> Any:
    """The plain configuration of a run with something of every group."""
    options = ("data=mixture", "regularizer=[r1,r2]", "schedule=cosine", "model=mlp", "prior=uniform")
    return OmegaConf.to_container(configure(*options, "model.needs=null"), resolve=True)


def refusal(function: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as refused:
        function()
    message = str(refused.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert SECRET not in message
    return message


def test_a_payload_at_any_node_is_found(content: Any, mark: Path) -> None:
    check_file(content, "file")
    tried = 0
    for place in nodes(content):
        for payload in payloads(mark).values():
            for changed in planted(content, place, payload):
                refusal(lambda changed=changed: check_file(changed, "file"))  # type: ignore[misc]
                tried += 1
    assert tried > 1000
    assert not mark.exists()


def test_payloads_do_not_run_when_a_checkpoint_is_loaded(content: Any, mark: Path, tmp_path: Path) -> None:
    tried = 0
    for place in nodes(content):
        for payload in payloads(mark).values():
            changed = list(planted(content, place, payload))[tried % 6]
            described = {"sample_shape": (1,), "class_names": ()}
            saved = {"gan": {"config": changed, "data": described}, "state_dict": {}, "global_step": 0}
            torch.save(saved, tmp_path / "last.ckpt")
            refusal(lambda: load(tmp_path / "last.ckpt"))
            tried += 1
    assert tried > 60
    assert not mark.exists()


def test_payloads_do_not_run_when_a_run_is_resumed(content: Any, mark: Path, tmp_path: Path) -> None:
    tried = 0
    for place in list(nodes(content))[::4]:
        for payload in payloads(mark).values():
            changed = list(planted(content, place, payload))[tried % 6]
            (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(changed)))
            refusal(lambda: resume(tmp_path))
            tried += 1
    assert tried > 60
    assert not mark.exists()


@pytest.mark.parametrize("text", ["model: {_target_: os.system}", None, [], 5, [{"_target_": "torch.nn.Linear"}]])
def test_what_is_no_mapping_is_no_configuration(text: Any) -> None:
    """A text would be parsed as YAML, after it has been looked at as a text."""
    assert "holds no configuration" in refusal(lambda: check_file(text, "last.ckpt"))


@pytest.mark.parametrize("target", KINDS)
def test_the_parts_of_a_run_may_be_made(target: str) -> None:
    check_file({"loss": [{"_target_": target}]}, "file")


def test_every_target_of_the_options_may_be_made() -> None:
    # without Hydra's own block, which no run's configuration has
    text = "\n".join(path.read_text().split("\nhydra:")[0] for path in (ROOT / "conf").rglob("*.yaml"))
    found = set(re.findall(r"_target_:\s*([\w.]+)", text))
    assert len(found) > 20
    for target in found:
        check_file({"x": {"_target_": target}}, "file")


@pytest.mark.parametrize("target", FOREIGN, ids=repr)
@pytest.mark.parametrize("trust", [[], ["my_lab"], ["gan_lightning"]], ids=str)
def test_anything_else_is_refused(target: Any, trust: list[str]) -> None:
    message = refusal(lambda: check_file({"loss": {"_target_": target}}, "last.ckpt", trust))
    assert message.startswith("loss._target_")
    assert "last.ckpt" in message


class Odd:
    """Something that no plain data holds."""


def test_only_plain_data_is_read() -> None:
    for value in (b"x", {1, 2}, torch.ones(1), Path("x"), Odd(), {b"_target_": 1}, {(1, 2): 1}, {None: 1}):
        refusal(lambda value=value: check_file({"model": {"a": [value]}}, "file"))  # type: ignore[misc]


def test_bombs_are_refused_at_once() -> None:
    itself: list[Any] = []
    itself.append(itself)
    doubled: Any = ["x"] * 9
    for _ in range(9):
        doubled = [doubled] * 9
    for value in (itself, doubled, ["x"] * (MOST + 1)):
        assert "give a file that train.py wrote" in refusal(lambda value=value: check_file({"a": value}, "file"))  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------ own packages


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of one's own that must not be imported to be looked at."""
    folder = tmp_path / "lab_of_trust"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "raise RuntimeError('imported')\nfrom lab_of_trust.nets import (\n    Net,\n)\n"
    )
    (folder / "nets.py").write_text(
        "import os\nfrom os import system\n\nclass Net:\n    pass\n\ndef make():\n    pass\n\nother = make\n"
    )
    (folder / "inner" / "more.py").write_text("class More:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder.name


@pytest.mark.parametrize("target", ["nets.Net", "nets.make", "nets.other", "inner.more.More", "Net", "nets.Net.small"])
def test_what_a_trusted_package_defines_may_be_made(lab: str, target: str) -> None:
    content = {"loss": {"_target_": f"{lab}.{target}"}}
    check_file(content, "file", [lab])
    message = refusal(lambda: check_file(content, "file"))
    assert message.endswith(f"give trust=[{lab}].")
    assert lab not in sys.modules


@pytest.mark.parametrize(
    "target", ["nets.os.system", "nets.system", "nets.Nut", "nets", "nets.Net.__init__", "inner.x"]
)
def test_what_a_trusted_package_only_imports_may_not(lab: str, target: str) -> None:
    refusal(lambda: check_file({"loss": {"_target_": f"{lab}.{target}"}}, "file", [lab]))
    assert lab not in sys.modules


def test_a_part_of_a_package_may_be_trusted_alone(lab: str) -> None:
    check_file({"x": {"_target_": f"{lab}.nets.Net"}}, "file", [f"{lab}.nets"])
    refusal(lambda: check_file({"x": {"_target_": f"{lab}.inner.more.More"}}, "file", [f"{lab}.nets"]))
    refusal(lambda: check_file({"x": {"_target_": f"{lab}s.nets.Net"}}, "file", [lab]))


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "hydra.utils.instantiate", "gan_lightning.checkpoints.load"]
)
def test_nobody_is_told_to_trust_what_no_run_needs(name: str) -> None:
    assert "trust=" not in refusal(lambda: check_file({"x": {"_target_": name}}, "file"))


@pytest.mark.parametrize("trust", [["my lab"], [""], ["my_lab."], ["*"], [5]], ids=str)
def test_trust_is_a_list_of_packages(trust: Any) -> None:
    assert "trust is" in refusal(lambda: check_file({}, "file", trust))


def test_the_foreign_packages_of_a_configuration_are_told(configure: Configure) -> None:
    config = configure()
    assert foreign_packages(config) == []
    OmegaConf.update(config, "callbacks.x", [{"_target_": "my_lab.a.B"}, {"_target_": "his.C"}], force_add=True)
    assert foreign_packages(config) == ["his", "my_lab"]


# -------------------------------------------------------------------------------------------------- reading a file

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
RUN = "model: {}\ndata: {}\ntrainer: {}\n"
UNREADABLE = {
    "tab": b"model:\n\tlr: 1\n",
    "tag": b"model: !!python/name:os.system\n",
    "call": b"model: !!python/object/apply:os.system ['touch ran']\n",
    "own tag": b"model: !mine x\n",
    "binary": bytes(range(256)),
    "not UTF-8": "model: größe".encode("latin-1"),
    "cut": b"model: {lr: 1, betas: [0.5, ",
    "aliases": BOMB.encode(),
    "one alias": f"x: &x 1\ny: *x\n{RUN}".encode(),
    "merge": b"x: &x {a: 1}\ny:\n  <<: *x\n",
    "twice": b"model: 1\nmodel: 2\n",
    "deep": b"[" * 50_000,
    "large": b"#" * (LARGEST + 1),
    "two documents": b"a: 1\n---\nb: 2\n",
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_what_no_run_wrote_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text)
    assert str(path) in refusal(lambda: read_config(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        assert str(path) in refusal(lambda path=path: read_config(path))  # type: ignore[misc]


def test_a_file_is_read_as_omegaconf_reads_it(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    content["text"] = ["1e-3", "2020-01-01", "null", "~", "a: b", "图像", 1e-6, float("inf"), None, True, "yes"]
    OmegaConf.save(OmegaConf.create(content), path)
    assert read_config(path) == content
    path.write_text(f"{RUN}a: 1e-3\nb: 2020-01-01\n")
    assert read_config(path)["a"] == 0.001
    assert OmegaConf.create(read_config(path)) == OmegaConf.load(path)


def test_checks_import_no_torch() -> None:
    code = (
        "import sys; from gan_lightning import command_line, resumption, trust;"
        "trust.check_file({'a': {'_target_': 'torch.nn.Linear'}, 'b': {'_target_': 'gan_lightning.losses.Hinge'}}, '');"
        "sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False).returncode == 0
