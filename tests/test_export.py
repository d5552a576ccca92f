"""Exported generators in processes that have neither this package nor, for ONNX, torch."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import load_script, trained
from PIL import Image
from programs import NOWHERE
from test_sample import command

from gan_lightning import export
from gan_lightning.checkpoints import load

GOODFELLOW = ["model.discriminator.width=2", "model.discriminator.units=4"]
SMALL = {  # a network of each kind: overrides, and the side of its images
    "mlp": (["model=mlp", "model.generator.widths=[16,32]", "model.discriminator.widths=[8]", "data.range=unit"], 28),
    "dcgan": (["model=dcgan", "model.generator.width=4", "model.discriminator.width=4", "data.channels=1"], 28),
    "maxout": (["model=goodfellow_mnist", "model.generator.widths=[16,16]", "model.discriminator.widths=[8,8]"], 28),
    "maxout_conv": (["model=goodfellow_cifar10_conv", "model.generator.width=4", *GOODFELLOW], 32),
    "points": (["data=ring", "data.rounds_per_epoch=6", "prior=uniform", "prior.low=-1", "prior.high=2"], 0),
}
EMA = ["model.ema_decay=0.9", "model.lr=0.02", "model.latent_size=5"]

ONNX = """
import sys
import numpy as np
import onnxruntime
folder = sys.argv[1]
for name in sys.argv[2:]:
    session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx")
    for latents in np.load(f"{folder}/{name}.npz").values():
        np.save(f"{folder}/{name}-{len(latents)}.onnx.npy", session.run(["samples"], {"latents": latents})[0])
assert not {"torch", "gan_lightning"} & set(sys.modules)
"""
PT2 = """
import sys
import numpy as np
import torch
folder = sys.argv[1]
for name in sys.argv[2:]:
    program = torch.export.load(f"{folder}/{name}.pt2").module()
    for latents in np.load(f"{folder}/{name}.npz").values():
        np.save(f"{folder}/{name}-{len(latents)}.pt2.npy", program(torch.from_numpy(latents)).detach().numpy())
assert "gan_lightning" not in sys.modules
"""
BATCHES = (1, 2, 7)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("export")


def run(script: ModuleType, *arguments: object) -> None:
    """The script with these arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
        script.main()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short runs, one of each kind of generator, the images of noise."""
    folder = tmp_path_factory.mktemp("runs")
    noise = np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(40):
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(pictures / f"{i}.png")
    for name, (overrides, side) in SMALL.items():
        images = ["data=image_folder", f"data.root={pictures}", f"data.size={side}", f"data.cache={folder / 'cache'}"]
        trained(folder / name, *(images if side else []), *EMA, *overrides)
    return folder


@pytest.fixture(scope="module")
def exported(script: ModuleType, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every generator in both forms, what the two processes made of the same latents, and the latents."""
    folder = tmp_path_factory.mktemp("exported")
    noise = np.random.default_rng(1)
    for name in SMALL:
        for ending in ("pt2", "onnx"):
            run(script, f"checkpoint={runs / name}", f"out={folder / name}.{ending}")
        np.savez(folder / f"{name}.npz", *[noise.normal(size=(n, 5)).astype(np.float32) for n in BATCHES])
    for program in (ONNX, PT2):
        # apart from the checkout, where gan_lightning could be imported by mistake
        subprocess.run([sys.executable, "-c", program, str(folder), *SMALL], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
@pytest.mark.parametrize("name", SMALL)
def test_another_process_makes_the_averaged_generators_samples(
    exported: Path, runs: Path, name: str, ending: str
) -> None:
    gan = load(runs / name)
    assert gan.average is not None
    for n, latents in zip(BATCHES, np.load(exported / f"{name}.npz").values(), strict=True):
        with torch.no_grad():
            averaged, raw = (
                network(torch.from_numpy(latents)).numpy()
                for network in (gan.average.network["generator"], gan.game.generator)
            )
        found = np.load(exported / f"{name}-{n}.{ending}.npy")
        assert (found.dtype, found.shape) == (np.float32, averaged.shape)
        np.testing.assert_allclose(found, averaged, atol=1e-5, rtol=0)
        assert np.abs(averaged - raw).max() > 1e-3


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
@pytest.mark.parametrize("name", SMALL)
def test_the_metadata_describe_the_program(exported: Path, name: str, ending: str) -> None:
    if ending == "pt2":
        extra = {"metadata.json": ""}
        torch.export.load(exported / f"{name}.pt2", extra_files=extra)
        metadata = json.loads(extra["metadata.json"])
    else:
        from onnxruntime import InferenceSession

        session = InferenceSession(exported / f"{name}.onnx")
        metadata = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
        assert (session.get_inputs()[0].name, session.get_inputs()[0].shape) == ("latents", ["n", 5])
    side = SMALL[name][1]
    assert metadata == {
        "latent_size": 5,
        "prior": {"name": "normal"} if side else {"name": "uniform", "low": -1, "high": 2},
        "sample_shape": [1 if name == "dcgan" else 3, side, side] if side else [2],
        "value_range": {"mlp": [0.0, 1.0], "points": None}.get(name, [-1.0, 1.0]),
        "step": 12,
        "weights": "average",
    }


def test_the_raw_generator(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    run(script, f"checkpoint={runs / 'mlp'}", "weights=raw", f"out={tmp_path / 'raw.PT2'}")
    latents = torch.randn(4, 5)
    gan = load(runs / "mlp")
    with torch.no_grad():
        found = torch.export.load(tmp_path / "raw.PT2").module()(latents)
        torch.testing.assert_close(found, gan.game.generator(latents), atol=1e-5, rtol=0)
        assert (found - gan(latents)).abs().max() > 1e-3


def test_what_the_user_sees(runs: Path, tmp_path: Path) -> None:
    """One line, and none of torch's warnings and greetings."""
    result = command("export.py", f"checkpoint={runs / 'dcgan'}", "out=deep/generator.ONNX", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    line, _ = result.stdout.splitlines()
    assert line.startswith("averaged generator of step 12 in deep/generator.ONNX, checked: differs by at most ")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["generator.ONNX"]


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_a_program_with_other_samples_is_not_written(
    script: ModuleType, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    trace = export.trace
    monkeypatch.setattr(export, "trace", lambda gan, raw: trace(gan, not raw))
    with pytest.raises(SystemExit, match=r"Error: The exported samples differ by .* from the generator's"):
        run(script, f"checkpoint={runs / 'mlp'}", f"out={tmp_path / 'wrong'}.{ending}")
    assert not list(tmp_path.iterdir())


def test_without_onnx_runtime_the_file_is_not_checked(
    script: ModuleType, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    run(script, f"checkpoint={runs / 'points'}", f"out={tmp_path / 'generator.onnx'}")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("not checked, because ONNX Runtime is not installed: pip install 'gan-lightning[export]'")
    assert (tmp_path / "generator.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_onnx_one_sentence_says_how_to_install_it(
    script: ModuleType, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        run(script, f"checkpoint={runs / 'points'}", f"out={tmp_path / 'generator.onnx'}")
    assert ended.value.code == "Error: ONNX needs packages that are not installed: pip install 'gan-lightning[export]'"
    run(script, f"checkpoint={runs / 'points'}", f"out={tmp_path / 'generator.pt2'}")  # which needs neither
    assert [path.name for path in tmp_path.iterdir()] == ["generator.pt2"]


REFUSED = [
    (["out=x.pth"], "out is x.pth: end it in .pt2, .onnx or .safetensors."),
    (["out=x.onnx", "quantize=true"], "out is x.onnx: quantize and metrics are for .safetensors files."),
    (["weights=best"], "weights is 'best': give one of average, raw."),
    (["checkpoint=nowhere"], NOWHERE),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=[a[0] for a, _ in REFUSED])
def test_what_cannot_be_used_is_one_sentence_without_torch(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = command("export.py", f"checkpoint={tmp_path}", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, f"Error: {sentence}\n")
    assert result.stdout == "imported:\n"
    assert not list(tmp_path.iterdir())
