"""The feature networks: trained once, the same every time, kept, named by what they are, refused in one sentence."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from gan_lightning.batch import Batch
from gan_lightning.cache import digest_of
from gan_lightning.data.folder import ImageFolder
from gan_lightning.data.images import ImageData
from gan_lightning.data.torchvision import MNIST
from gan_lightning.errors import UsageError
from gan_lightning.metrics import features
from gan_lightning.metrics.features import Classifier, Features, inception_features, own_features, train_classifier
from gan_lightning.pixels import from_bytes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "UPDATES", 40)


def stripes(n: int, seed: int = 0, size: int = 8, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Noisy stripes along or across: two classes that a convolution tells apart."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=stream)
    along = (torch.arange(size) % 2 * 200).expand(size, size)
    pictures = torch.where(labels[:, None, None] == 0, along, along.T)[:, None].expand(n, channels, size, size)
    return (pictures + torch.randint(0, 50, pictures.shape, generator=stream)).to(torch.uint8), labels


def own(cache: Path, train: tuple[Tensor, Tensor] | None = None, kind: str = "stripes") -> Features:
    return own_features(kind, train or stripes(256), stripes(100, 1), 2, cache, CPU)


def weights(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (1, 4, 4), (3, 33, 33), (2, 64, 16)])
def test_images_of_any_size(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    found, logits = Features("any", Classifier(shape, 7))(images)
    assert logits.shape == (5, 7)
    assert found.shape[0] == 5
    assert found.shape[1] >= 64
    assert not logits.requires_grad
    assert found.isfinite().all()


def test_the_classifier_learns_and_states_its_accuracy(tmp_path: Path) -> None:
    held_out, labels = stripes(100, 1)
    found = own(tmp_path)
    _, logits = found(held_out)
    assert found.accuracy == (logits.argmax(1) == labels).double().mean().item() > 0.95


def test_training_follows_from_its_seed_and_leaves_the_global_stream_alone() -> None:
    images, labels = stripes(256)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = train_classifier(images, labels, 2, 0, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(weights(train_classifier(images, labels, 2, 0, CPU)), weights(first))
    assert not torch.equal(weights(train_classifier(images, labels, 2, 1, CPU)), weights(first))


def test_it_is_trained_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = own(tmp_path)
    (path,) = tmp_path.iterdir()  # nothing half written beside it
    saved = torch.load(path, weights_only=True)["content"]
    assert (saved["accuracy"], saved["seed"]) == (first.accuracy, features.SEED)
    assert saved["data"] in path.name
    monkeypatch.setattr(features, "train_classifier", lambda *_: pytest.fail("trained again"))
    second = own(tmp_path)
    assert (second.name, second.accuracy) == (first.name, first.accuracy)
    assert torch.equal(weights(second.network), weights(first.network))
    assert not any(p.requires_grad for p in second.network.parameters())


def test_the_name_is_of_the_weights(tmp_path: Path) -> None:
    """Other data, or other weights for the same data, have another name."""
    first = own(tmp_path)
    assert first.name.startswith("stripes-cnn-")
    images, labels = stripes(256)
    images[0, 0, 0, 0] ^= 1
    assert own(tmp_path, (images, labels)).name != first.name
    assert len(list(tmp_path.iterdir())) == 2
    (path,) = (p for p in tmp_path.iterdir() if own_digest(tmp_path) in p.name)
    saved = torch.load(path, weights_only=True)["content"]
    saved["weights"]["head.1.bias"][0] += 1e-3
    torch.save({"digest": digest_of(saved), "content": saved}, path)
    assert own(tmp_path).name != first.name


def own_digest(cache: Path) -> str:
    """The key of the data that own() has unless told otherwise."""
    key = (features.ARCHITECTURE, features.UPDATES, features.BATCH_SIZE, features.LEARNING_RATE, features.SEED)
    return features._digest([*stripes(256), *stripes(100, 1)], key)


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features=own .* but there are 1: give a data\.root with a folder for each"):
        own_features("one", stripes(10), stripes(10), 1, tmp_path, CPU)


# ------------------------------------------------------------------------------------------------------- Inception


class SmallInception(nn.Module):
    """What torch-fidelity's extractor takes and gives, in small."""

    def __init__(self, name: str, wanted: list[str], path: str) -> None:
        super().__init__()
        assert wanted == ["2048", "logits_unbiased"]
        self.weight = nn.Parameter(torch.load(path, weights_only=True)["weight"])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return images.float().mean((2, 3)) * self.weight, images.float().mean((2, 3))


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch-fidelity whose Inception is small."""
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = SmallInception  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match=r"needs the package torch-fidelity: pip install 'gan-lightning\[inception\]'"):
        inception_features(None)


@pytest.mark.usefixtures("fidelity")
def test_missing_weights_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"\(no connection\): download https://.*6726825d\.pth and give the file"):
        inception_features(None)
    with pytest.raises(ValueError, match=rf"data\.inception_weights={tmp_path / 'absent'} does not hold"):
        inception_features(str(tmp_path / "absent"))
    (tmp_path / "broken").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"broken does not hold Inception's weights: give weights-inception-2015"):
        inception_features(str(tmp_path / "broken"))


@pytest.mark.usefixtures("fidelity")
def test_given_weights_are_named_and_gray_images_are_shown_in_color(tmp_path: Path) -> None:
    names = []
    for value in (1.0, 2.0):
        torch.save({"weight": torch.tensor(value)}, tmp_path / "weights.pth")
        inception = inception_features(str(tmp_path / "weights.pth"))
        names.append(inception.name)
        assert inception.accuracy is None
        gray = torch.full((2, 1, 4, 4), 7, dtype=torch.uint8)
        assert inception(gray)[0].tolist() == [[7 * value] * 3] * 2
        for channels in (2, 4):  # the first alone, and the first three
            images = torch.arange(channels, dtype=torch.uint8).view(1, channels, 1, 1).expand(2, channels, 4, 4)
            seen = [0, 0, 0] if channels == 2 else [0, value, 2 * value]
            assert inception(images)[0].tolist() == [seen] * 2
    assert names[0] != names[1]
    assert all(name.startswith("inception-") for name in names)


def test_the_real_extractor(tmp_path: Path) -> None:
    """torch-fidelity's own network with random weights: 2,048 features and 1,008 logits of any image."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    extractor = module.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(extractor, "load_state_dict", lambda *_: None)
        torch.save(extractor("any", ["2048"]).state_dict(), tmp_path / "weights.pth")
    found, logits = inception_features(str(tmp_path / "weights.pth"))(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    assert (found.shape, logits.shape) == ((2, 2048), (2, 1008))


# ------------------------------------------------------------------------------------------------ held-out images


def ready(data: ImageData, ranks: int = 1, rank: int = 0) -> Any:
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=SimpleNamespace(),
        world_size=ranks,
        global_rank=rank,
        max_steps=-1,
        strategy=SimpleNamespace(root_device=CPU),
    )
    data.setup()
    return data


class Striped(MNIST):
    """60 stripes to train on and 40 held out, whose first pixel is their number."""

    sample_shape = (1, 8, 8)
    all_class_names = ("along", "across")

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = stripes(60 if train else 40, int(train))
        images[:, 0, 0, 0] = torch.arange(len(images)) + (0 if train else 100)
        return images, labels


def numbers(data: Any) -> list[int]:
    return [round((image[0, 0, 0].item() + 1) * 127.5) for batch in data.val_dataloader() for image in batch.x]


def striped(tmp_path: Path, **options: Any) -> Striped:
    return Striped("nowhere", 4, **{"validation_samples": 40, "cache": str(tmp_path), **options})


def test_validation_has_held_out_images_in_the_range(tmp_path: Path) -> None:
    data = ready(striped(tmp_path))
    assert sorted(numbers(data)) == list(range(100, 140))
    assert data.monitor == ("val/fid", "min")
    assert data.features_name.startswith("striped-cnn-")
    unit = torch.cat([batch.x for batch in ready(striped(tmp_path, range="unit")).val_dataloader()])
    assert (unit.min().item(), unit.max().item()) == (0.0, pytest.approx(249 / 255, abs=0.01))


def test_fewer_are_the_same_for_every_seed_and_not_the_first_of_the_file(tmp_path: Path) -> None:
    drawn = [numbers(ready(striped(tmp_path, validation_samples=20, seed=seed))) for seed in (0, 1)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) != set(range(100, 120))
    assert len(set(drawn[0])) == 20


def test_ranks_share_out_the_held_out_images(tmp_path: Path) -> None:
    parts = [numbers(ready(striped(tmp_path), 2, rank)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [20, 20]
    assert sorted(parts[0] + parts[1]) == list(range(100, 140))


def test_chosen_classes_are_held_out_too_and_the_network_knows_all(tmp_path: Path) -> None:
    all_, one = (ready(striped(tmp_path, validation_samples=10, classes=classes)) for classes in (None, ["across"]))
    across = [100 + i for i, label in enumerate(stripes(40, 0)[1].tolist()) if label == 1]
    assert set(numbers(one)) <= set(across)
    assert one.features_name == all_.features_name
    for data, classes in ((all_, 2), (one, 1)):
        metric = data.metrics()["images"]
        images = Batch(from_bytes(stripes(40)[0], data.value_range))
        metric.update(images, images)  # generated ones are of both
        assert metric.compute()["classes"] == classes


@pytest.mark.parametrize("classes", [None, ["across"], ["across", "along"]])
def test_held_out_labels_are_the_classes_of_their_images(tmp_path: Path, classes: list[str] | None) -> None:
    """On each rank, by the images' numbers."""
    of_number = [("along", "across")[label] for label in stripes(40, 0)[1].tolist()]
    for rank in (0, 1):
        data = ready(striped(tmp_path, validation_samples=16, classes=classes), 2, rank)
        (batch,) = data.val_dataloader()
        assert batch.y.dtype == torch.int64
        assert [data.class_names[i] for i in batch.y.tolist()] == [of_number[n - 100] for n in numbers(data)]


def test_a_subset_is_measured_as_all_images_are(tmp_path: Path) -> None:
    """By the features that all training images have taught, against the same held-out images."""
    whole, few = (ready(striped(tmp_path, subset=n)) for n in (None, 7))
    assert (len(whole.images), len(few.images)) == (60, 7)
    assert few.features_name == whole.features_name
    assert few.held_out_digest == whole.held_out_digest
    assert len(list(tmp_path.glob("*.pt"))) == 1


def test_none_is_no_validation(tmp_path: Path) -> None:
    data = ready(striped(tmp_path, validation_samples=0))
    assert (data.monitor, data.metrics(), data.features_name) == (None, {}, None)
    assert not is_overridden("val_dataloader", data)
    assert is_overridden("val_dataloader", ready(striped(tmp_path / "other")))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_more_than_there_are_or_too_few_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation_samples is 41, but there are 40 held-out images"):
        ready(striped(tmp_path, validation_samples=41))
    with pytest.raises(ValueError, match="validation_samples is 9: give at least 10, or 0"):
        striped(tmp_path, validation_samples=9)


def test_the_floor_is_training_images(tmp_path: Path) -> None:
    data = ready(striped(tmp_path))
    drawn = [round((image[0, 0, 0].item() + 1) * 127.5) for image in data.training_samples(30, 0).x]
    assert len(set(drawn)) == 30
    assert set(drawn) <= set(range(60))
    with pytest.raises(ValueError, match="takes 61 training images, but there are 60"):
        data.training_samples(61, 0)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train and test, each with along and across."""
    from PIL import Image

    for part, n, seed in (("train", 60, 0), ("test", 40, 1)):
        images, labels = stripes(n, seed)
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            folder = tmp_path / part / ("along", "across")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{i:03}.png")
    return tmp_path


def folder(root: Path, held_out: str | None = "test", **options: Any) -> ImageFolder:
    chosen = {"held_out": held_out and str(root / held_out), "cache": str(root / "cache"), "validation_samples": 20}
    return ImageFolder(str(root / "train"), 4, 8, channels=1, **chosen | options)


def test_folders_are_held_out_and_classified(folders: Path) -> None:
    data = ready(folder(folders))
    images, labels = data.read(train=False)
    assert list(data.all_class_names) == list(data.class_names) == ["across", "along"]
    test, of_test = stripes(40, 1)
    in_order = torch.cat([test[of_test == 1], test[of_test == 0]])  # folders by name
    assert torch.equal(images, in_order)
    assert labels.tolist() == [0] * int((of_test == 1).sum()) + [1] * int((of_test == 0).sum())
    assert data._metric.features.accuracy > 0.9
    one = ready(folder(folders, classes=["along"], validation_samples=10))
    assert sum(len(batch.x) for batch in one.val_dataloader()) == 10
    assert one.features_name == data.features_name


def test_labels_pass_over_unreadable_files(folders: Path) -> None:
    victim = sorted((folders / "train" / "across").iterdir())[0]
    victim.write_bytes(b"no image")
    for _ in range(2):  # from the files, from the cache
        data = ready(folder(folders, unreadable="skip"))
        images, labels = data.read(train=True)
        train, of_train = stripes(60)
        assert labels.tolist() == [0] * (int((of_train == 1).sum()) - 1) + [1] * int((of_train == 0).sum())
        assert torch.equal(images[labels == 1], train[of_train == 0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"held_out": None}, r"data\.held_out is not set: image metrics compare"),
        ({"held_out": "absent"}, r"data\.held_out=.*absent is not a folder"),
        ({"held_out": "other"}, r"held_out has folders, such as 'x', that"),
        ({"memory_limit": 1e-9}, r"test takes more than data\.memory_limit=1e-09 GiB.* or a smaller data\.size\.$"),
        ({"memory_limit": 3e-6}, r"train takes more than data\.memory_limit=3e-06 GiB.*or data\.features=inception"),
    ],
)
def test_what_folders_cannot_give_is_one_sentence(folders: Path, options: dict[str, Any], sentence: str) -> None:
    (folders / "other" / "x").mkdir(parents=True)
    next((folders / "test" / "along").iterdir()).rename(folders / "other" / "x" / "a.png")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        ready(folder(folders, **options))


@pytest.mark.parametrize("held_out", [".", "train", "train/along", "test/../train", "link"])
def test_images_that_are_trained_on_are_not_held_out(folders: Path, held_out: str) -> None:
    (folders / "link").symlink_to(folders / "train" / "across")
    with pytest.raises(ValueError, match=r"^data\.held_out=.* have images in common"):
        folder(folders, held_out)


def test_a_folder_whose_name_begins_alike_is_another(folders: Path) -> None:
    (folders / "test").rename(folders / "train_not")
    assert len(ready(folder(folders, "train_not")).held_out_images().x) == 40


@pytest.mark.usefixtures("fidelity")
def test_held_out_images_of_unknown_folders_have_no_labels(folders: Path) -> None:
    """Inception needs no classes: a folder that the training images lack is none of theirs."""
    (folders / "test" / "along").rename(folders / "test" / "others")
    torch.save({"weight": torch.tensor(1.0)}, folders / "weights.pth")
    data = ready(folder(folders, features="inception", inception_weights=str(folders / "weights.pth")))
    assert [batch.y for batch in data.val_dataloader()] == [None]
    assert (data.classes, len(data.labels.unique())) == (2, 2)


def test_a_folder_without_subfolders_has_no_features_of_its_own(folders: Path) -> None:
    (folders / "test" / "along").rename(folders / "flat")
    data = folder(folders, "flat", validation_samples=10)
    data.root = folders / "train" / "along"
    with pytest.raises(ValueError, match=r"data\.features=own trains a classifier .* there are 0: give a data\.root"):
        ready(data)


def test_a_few_held_out_images_are_refused_wherever_the_number_comes_from(tmp_path: Path) -> None:
    """evaluate.py takes what there is, without an option that could be refused."""
    data = striped(tmp_path)
    data.validation_samples = 5
    with pytest.raises(UsageError, match=r"^There are 5 held-out images: image metrics need at least 10\.$"):
        ready(data)
