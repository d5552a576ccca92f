"""Every option of every group composes, is made and trains with suitable companions."""

import inspect
import json
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from gan_lightning import priors, regularizers
from gan_lightning.batch import Batch
from gan_lightning.build import build_data, build_gan, build_trainer
from gan_lightning.config import check
from gan_lightning.data.loader import RealData
from gan_lightning.data.pairs import Pairs
from gan_lightning.errors import UsageError
from gan_lightning.gan import GAN
from gan_lightning.training import train

Configure = Callable[..., DictConfig]
CONF = ROOT / "conf"
OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))
DATA = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
PLAIN = ("logger=none", "callbacks=none", "trainer.accelerator=cpu", "trainer.devices=1")
SMALL = (
    *PLAIN,
    "data.batch_size=16",
    "data.rounds_per_epoch=4",
    "data.rounds_per_batch=2",
    "data.validation_samples=64",
)


def write_mnist(root: Path) -> None:
    """Noise in the files of MNIST and of Fashion-MNIST."""
    noise = torch.Generator().manual_seed(0)
    for name, part in product(("MNIST", "FashionMNIST"), ("train", "t10k")):
        raw = root / name / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        images = torch.randint(0, 256, (512, 28, 28), generator=noise, dtype=torch.uint8)
        header = struct.pack(">HBBIII", 0, 8, 3, *images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        labels = bytes(i % 10 for i in range(512))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 512) + labels)


def narrow(config: DictConfig, most: int = 16) -> None:
    """Make every layer of both networks small, and change nothing else."""
    for network in (part for part in config.model.values() if OmegaConf.is_dict(part)):
        for name in network.keys() & {"width", "units"}:
            network[name] = min(network[name], most)
        if "widths" in network:
            network.widths = [min(width, most) for width in network.widths]
        if "cardinalities" in network:
            network.cardinalities = [2 for _ in network.cardinalities]


def options(group: str) -> list[str]:
    return [option for g, option in OPTIONS if g == group]


def gives(data: str) -> str:
    return str(OmegaConf.load(CONF / "data" / f"{data}.yaml").gives)


@cache
def some_file(ending: str) -> Path:
    """Rows in a file."""
    path, rows = Path(tempfile.mkdtemp()) / f"rows.{ending}", np.random.default_rng(0).normal(size=(64, 3))
    np.save(path, rows) if ending == "npy" else np.savetxt(path, rows, delimiter=",", header="a,b,c", comments="")
    return path


COMPANIONS = {
    ("augment", "ada"): ["data=mnist"],
    ("augment", "diffaugment"): ["data=mnist"],
    ("game", "infogan"): ["data=mnist"],  # the toys' planes have no room for its codes
    ("game", "pix2pix"): ["data=mnist_edges"],
    ("data", "dataset"): ["data.dataset._target_=helpers.Rows"],
    ("model", "bigan"): ["game=bigan"],
    ("prior", "codes"): ["model.latent_size=16"],
    ("experiment", "table"): ["data=table"],
}


def companions(group: str, option: str) -> list[str]:
    """The overrides that choose an option, and what it cannot do without."""
    if group == "optimizer":
        return [f"optimizer@generator_optimizer={option}", f"optimizer@discriminator_optimizer={option}"]
    if (group, option) == ("game", "acgan"):
        return ["game=acgan", "data=ring", "model.generator.conditional=true"]
    if (group, option) in (("regularizer", "gdpp"), ("regularizer", "mode_seeking")):  # which are G's alone
        return [f"regularizer@generator_regularizer={option}"]
    chosen = [f"{group}={option}"]
    node = OmegaConf.load(CONF / group / f"{option}.yaml")
    if group == "model" and node.get("needs"):
        # CIFAR-10 has the size that most networks for images can make
        chosen.append(
            "data=cifar10" if node.needs == "images" else f"data={next(d for d in DATA if gives(d) == node.needs)}"
        )
    chosen += COMPANIONS.get((group, option), [])
    if group == "data" and OmegaConf.is_missing(node, "root"):
        chosen.append("data.root=nowhere")
    data = option if group == "data" else next((c.partition("=")[2] for c in chosen if c.startswith("data=")), "mnist")
    if OmegaConf.is_missing(OmegaConf.load(CONF / "data" / f"{data}.yaml"), "path"):
        chosen.append(f"data.path={some_file('csv' if data == 'table' else 'npy')}")
    return chosen


def in_memory(data: RealData) -> RealData:
    """An image set whose images are noise that is already in memory, so that none is read from a disk."""
    if len(data.sample_shape) == 3:
        noise = torch.Generator().manual_seed(0)
        channels, *sides = data.sample_shape
        shape = (512, 2 * channels if isinstance(data, Pairs) else channels, *sides)
        data.images = torch.randint(0, 256, shape, generator=noise, dtype=torch.uint8)  # type: ignore[attr-defined]
        if getattr(data, "root", None) == Path("nowhere"):
            data.__dict__["all_class_names"] = ()  # else it would list the folder
        if data.classes:
            data.labels = torch.arange(512) % data.classes  # type: ignore[attr-defined]
    return data


def conditions(gan: GAN, n: int, sample_shape: tuple[int, ...]) -> torch.Tensor | None:
    """Images to translate, for a generator that does."""
    return torch.zeros(n, *sample_shape) if gan.game.is_conditional else None


def fit(config: DictConfig, folder: Path, steps: int = 3) -> GAN:
    """Train as train() does, for some steps, on data that needs no disk; what was built is returned."""
    config.trainer.max_steps, config.trainer.max_epochs = steps, -1
    check(config, {"model": "model", "data": "data"})
    data = in_memory(build_data(config))
    gan = build_gan(config, data.sample_shape, data.classes)
    trainer = build_trainer(config, folder, [])
    before = torch.nn.utils.parameters_to_vector(gan.game.generator.parameters()).detach().clone()
    trainer.fit(gan, datamodule=data)
    after = torch.nn.utils.parameters_to_vector(gan.game.generator.parameters())
    assert trainer.global_step == steps
    assert after.isfinite().all()
    assert (after - before).norm() > 0
    labels = data.conditions(5) if gan.game.is_conditional else None
    assert gan.sample(5, labels=labels).shape == (5, *data.sample_shape)
    return gan


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{g}={o}" for g, o in OPTIONS])
def test_every_option_composes_and_is_made(configure: Configure, tmp_path: Path, group: str, option: str) -> None:
    plain = ["trainer.accelerator=cpu", "trainer.devices=1", "callbacks=none", "logger=none"]
    overrides = companions(group, option)
    config = configure(*(p for p in plain if p.split("=")[0] != group), *overrides)
    check(config, {"model": "model", "data": "data"})
    data = in_memory(build_data(config))
    # shapes without numbers, so that networks of any size cost nothing; spectral normalization begins from numbers
    device = "cpu" if config.model.spectral_norm else "meta"
    with torch.device(device):
        gan = build_gan(config, data.sample_shape, data.classes).eval()
    trainer = build_trainer(config, tmp_path, [])
    latents = gan.game.prior.sample(3, torch.Generator().manual_seed(0)).to(device)
    labels = data.conditions(3)
    fake = gan.game.generate(latents, None if labels is None else labels.to(device))
    assert fake.x.shape == (3, *data.sample_shape)
    patches = (data.sample_shape[1] // 4) ** 2 if isinstance(data, Pairs) else 1
    assert gan.game.judge(fake).shape == (3 * patches,)
    assert len(gan.game.regularizers) == sum("_target_" in part for part in config.regularizer.values())
    for make, network in (
        (gan.generator_optimizer, gan.game.generator),
        (gan.discriminator_optimizer, gan.game.discriminator),
    ):
        optimizer = make(network.parameters())
        assert isinstance(optimizer, torch.optim.Optimizer)
        if gan.schedule is not None:
            gan.schedule(optimizer, 10)
    assert trainer.max_epochs == config.trainer.max_epochs
    assert not list(tmp_path.iterdir())


def test_no_option_is_forgotten() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert {group for group, _ in OPTIONS} == groups
    assert {path.suffix for path in CONF.rglob("*") if path.is_file()} == {".yaml"}


def test_the_trainer_has_lightnings_arguments() -> None:
    expected = set(inspect.signature(Trainer).parameters) - {"callbacks", "logger", "default_root_dir"}
    assert set(OmegaConf.load(CONF / "trainer" / "default.yaml")) == expected | {
        "threads",
        "compile",
        "cuda_graphs",
        "float32_matmul_precision",
    }


def test_the_trainers_values_are_lightnings_unless_on_purpose(configure: Configure, tmp_path: Path) -> None:
    """What differs from Lightning's own defaults is only what this list says."""
    on_purpose = {"max_steps", "max_epochs", "num_sanity_val_steps", "enable_checkpointing", "devices"}
    on_purpose |= {"enable_progress_bar", "enable_model_summary", "log_every_n_steps", "gradient_clip_algorithm"}
    own = OmegaConf.to_container(configure().trainer, resolve=True)
    defaults = {name: p.default for name, p in inspect.signature(Trainer).parameters.items() if name in own}
    as_none = {"inference_mode": True, "precision": "32-true"}  # what None means to Lightning
    differing = {n for n, v in defaults.items() if own[n] != v and not (v is None and own[n] == as_none.get(n))}
    assert differing <= on_purpose


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_trains(configure: Configure, tmp_path: Path, experiment: str) -> None:
    """For two batches, narrowly, with its own callbacks and on its own data where that is no large download."""
    config = configure(*companions("experiment", experiment), "trainer.accelerator=cpu", "trainer.devices=1")
    config.data.rounds_per_batch = min(config.data.get("rounds_per_batch", 1), 5)
    config.data.validation_samples = min(config.data.validation_samples, 256)
    config.data.batch_size = min(config.data.batch_size, 8)
    narrow(config)
    steps = 2 * config.data.rounds_per_batch
    files = config.data.get("_target_").rpartition(".")[2]
    if config.data.gives != "points" and files not in ("MNIST", "FashionMNIST", "MNISTEdges", "StackedMNIST"):
        fit(config, tmp_path, steps)
        return
    if config.data.gives != "points":
        write_mnist(tmp_path / "data")
        config.data.root, config.data.download = str(tmp_path / "data"), False
        config.data.validation_samples = 0  # else a classifier is trained
        if config.data.get("subset"):
            config.data.subset = 64
    config.trainer.max_steps, config.trainer.max_epochs = steps, -1
    check(config, {"model": "model", "data": "data"})
    train(config, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["step"], metrics["images_seen"]) == (steps, steps * samples_of_one_round(config))
    assert OmegaConf.load(tmp_path / "config.yaml") == OmegaConf.create(OmegaConf.to_container(config, resolve=True))


def samples_of_one_round(config: DictConfig) -> int:
    return config.data.batch_size * config.model.critic_steps * config.trainer.accumulate_grad_batches


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiments_options_do_not_force_what_is_left_out(
    configure: Configure, tmp_path: Path, experiment: str
) -> None:
    config = configure(*companions("experiment", experiment), "callbacks=none", "regularizer=none", "schedule=constant")
    chosen = [part for part in config.regularizer.values() if "_target_" in part]
    check(config, {"model": "model", "data": "data"})
    data = build_data(config)
    with torch.device("cpu" if config.model.spectral_norm else "meta"):  # as above
        gan = build_gan(config, data.sample_shape, data.classes)
    assert len(gan.game.regularizers) == len(chosen) == 0
    assert gan.schedule is None


def test_callbacks_that_are_left_out_are_not_made(configure: Configure, tmp_path: Path) -> None:
    config = configure("callbacks=none", "+callbacks.samples.every_n_steps=1", *SMALL)
    config.trainer.max_steps, config.trainer.max_epochs = 2, -1
    train(config, tmp_path)
    assert not (tmp_path / "samples").exists()


SYNTHETIC = [data for data in DATA if gives(data) == "points"]
VECTOR_MODELS = [m for m in options("model") if OmegaConf.load(CONF / "model" / f"{m}.yaml").get("needs") is None]


@pytest.mark.parametrize(("model", "data"), list(product(VECTOR_MODELS, SYNTHETIC)))
def test_models_for_any_shape_train_on_points(configure: Configure, tmp_path: Path, model: str, data: str) -> None:
    small = ["model.generator.widths=[32,32]"] if model == "mlp" else []
    fit(configure(*companions("model", model), f"data={data}", *SMALL, *small), tmp_path)


@pytest.mark.parametrize(("loss", "regularizer"), list(product(options("loss"), options("regularizer"))))
def test_losses_go_with_regularizers(configure: Configure, tmp_path: Path, loss: str, regularizer: str) -> None:
    fit(configure("data=ring", f"loss={loss}", *companions("regularizer", regularizer), *SMALL), tmp_path)


IMAGES = ("data=mnist", "model=infogan", *PLAIN, "data.batch_size=8", "data.rounds_per_batch=1")
GAMES = {
    "standard": [],
    "acgan": ["model.generator.conditional=true"],
    "infogan": ["model.latent_size=16"],
    "bigan": ["model=bigan"],
    "pix2pix": ["data=mnist_edges", "model=pix2pix"],
    "san": [],
}


@pytest.mark.parametrize("augment", ["diffaugment", "ada"])
@pytest.mark.parametrize("game", options("game"))
def test_games_go_with_augmentation_or_refuse_it(configure: Configure, tmp_path: Path, game: str, augment: str) -> None:
    chosen = dict(option.split("=") for option in (*IMAGES, f"game={game}", f"augment={augment}", *GAMES[game]))
    config = configure(*(f"{name}={value}" for name, value in chosen.items()))
    narrow(config)
    if game in ("bigan", "pix2pix"):
        with pytest.raises(UsageError, match=f"game={game} shows pairs to the discriminator, .* choose augment=none"):
            fit(config, tmp_path)
    else:
        assert fit(config, tmp_path).game.augment is not None


@pytest.mark.parametrize("prior", options("prior"))
def test_every_prior_feeds_the_generator(configure: Configure, tmp_path: Path, prior: str) -> None:
    gan = fit(configure(f"prior={prior}", "model.latent_size=13", *SMALL), tmp_path)
    assert isinstance(gan.game.prior, priors.Prior)
    assert type(gan.game.prior).__name__.lower() == prior
    assert gan.game.prior.size == 13


@pytest.mark.parametrize("optimizer", options("optimizer"))
@pytest.mark.parametrize("schedule", options("schedule"))
def test_optimizers_go_with_schedules(configure: Configure, tmp_path: Path, optimizer: str, schedule: str) -> None:
    fit(configure(*companions("optimizer", optimizer), f"schedule={schedule}", *SMALL), tmp_path)


def test_several_regularizers_are_all_built(configure: Configure, tmp_path: Path) -> None:
    config = configure("data=ring", "regularizer=[r1,r2]", "regularizer.r1.weight=0.25", *SMALL)
    r1, r2 = fit(config, tmp_path).game.regularizers.values()
    assert isinstance(r1, regularizers.R1)
    assert isinstance(r2, regularizers.R2)
    assert (r1.weight, r2.weight) == (0.25, 1.0)


@pytest.mark.parametrize("model", options("model"))
def test_every_model_takes_its_shape_from_the_data_or_refuses_it(configure: Configure, model: str) -> None:
    """The widest layers are narrowed: the shape is what matters here."""
    chosen = companions("model", model)
    config = configure(*chosen, *([] if any(option.startswith("data=") for option in chosen) else ["data=mnist"]))
    narrow(config)
    made = 0
    for shape in ((1, 28, 28), (3, 32, 32), (3, 64, 64), (30, 1), (2,), (1,)):
        try:
            gan = build_gan(config, shape, 0).eval()
        except UsageError as error:
            assert str(shape) in str(error)  # noqa: PT017
            assert model in str(error)  # noqa: PT017
            continue
        made += 1
        labels = conditions(gan, 2, shape)
        samples = gan.sample(2, torch.Generator().manual_seed(0), labels=labels)
        assert samples.shape == (2, *shape)
        patches = 1 if labels is None else (shape[1] // 4) ** 2
        assert gan.game.judge(Batch(samples, labels)).shape == (2 * patches,)
    assert made


def test_the_options_reach_the_networks_and_the_module(configure: Configure) -> None:
    config = configure(
        "model.generator.widths=[7]",
        "model.critic_steps=3",
        "model.order=simultaneous",
        "model.ema_decay=0",
        "trainer.gradient_clip_val=0.5",
        "trainer.accumulate_grad_batches=2",
        "optimizer@generator_optimizer=sgd",
        "generator_optimizer.lr=0.25",
        "model.lr=0.125",
    )
    gan = build_gan(config, (1,), 0)
    assert gan.game.generator.layers[0].weight.shape == (7, 4)
    assert (gan.critic_steps, gan.order, gan.average) == (3, "simultaneous", None)
    assert (gan.gradient_clip_val, gan.accumulate_grad_batches) == (0.5, 2)
    optimizers = gan.generator_optimizer(gan.game.generator.parameters()), gan.discriminator_optimizer(gan.parameters())
    assert [type(o) for o in optimizers] == [torch.optim.SGD, torch.optim.Adam]
    assert [o.param_groups[0]["lr"] for o in optimizers] == [0.25, 0.125]


@pytest.mark.parametrize("callbacks", options("callbacks"))
def test_every_set_of_callbacks_accompanies_a_run(configure: Configure, tmp_path: Path, callbacks: str) -> None:
    config = configure(*(s for s in SMALL if not s.startswith("callbacks")), f"callbacks={callbacks}")
    config.trainer.max_steps, config.trainer.max_epochs = 4, -1
    train(config, tmp_path)
    assert (tmp_path / "metrics.json").is_file()


def test_a_round_larger_than_the_data_is_refused_before_training(configure: Configure, tmp_path: Path) -> None:
    """With all that one round takes, also of the discriminator's updates."""
    write_mnist(tmp_path)
    options = ("model=mlp", "data=mnist", f"data.root={tmp_path}", "data.batch_size=200", "model.critic_steps=3")
    with pytest.raises(UsageError, match=r"takes 600 images .*batch_size=200.* has 512: choose a smaller"):
        train(configure(*options, *PLAIN), tmp_path / "run")
    assert not any((tmp_path / "run").iterdir())


@pytest.mark.parametrize("data", options("data"))
def test_every_data_has_a_model_that_suits_it_unless_another_is_chosen(data: str) -> None:
    """Which sees a whole image through layers as wide as those of points would be too narrow for."""
    place = ["data.root=x"] if data.endswith("folder") else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        alone = compose("config", overrides=[f"data={data}", *place])
        before, after = (
            compose("config", overrides=[*order, *place])
            for order in (("model=linear", f"data={data}"), (f"data={data}", "model=linear"))
        )
    assert (alone.model.latent_size > 10) == (alone.data.gives in ("images", "table", "sequences"))
    assert (alone.model.generator._target_.split(".")[2] == "pix2pix") == (alone.data.gives == "pairs")
    assert alone.model.get("needs") in (None, alone.data.gives)
    assert before == after
    assert "linear" in before.model.generator._target_
