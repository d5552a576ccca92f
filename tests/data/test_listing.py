"""Folders of whatever a disk may hold: images are found, the rest is counted on one line, and nothing hangs."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_images import TINY, batches, image_folder, picture, ready

from gan_lightning.data.decode import read_image
from gan_lightning.data.folder import ImageFolder
from gan_lightning.data.listing import IMAGE_ENDINGS, list_images
from gan_lightning.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two cats and three dogs."""
    folder = tmp_path / "animals"
    for name, n in (("cats", 2), ("dogs", 3)):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            picture(16, 16).save(folder / name / f"n{i}.png")
    return folder


def found(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in list_images(root).files]


IMAGES = ["cats/n0.png", "cats/n1.png", "dogs/n0.png", "dogs/n1.png", "dogs/n2.png"]


def test_a_plain_folder_says_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "note.txt").write_text("not an image")
    (root / ".DS_Store").write_bytes(b"Bud1")
    (root / "cats" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    assert found(root) == IMAGES
    image_folder(root)._files(root)
    assert capsys.readouterr().out == ""


def make_odd(kind: str, folder: Path) -> None:
    """One thing called x.png that is no image file."""
    path = folder / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(folder, os.O_RDONLY)
            try:
                server.bind(f"/proc/self/fd/{here}/x.png")  # a path of its own may be too long
            finally:
                os.close(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dead link":
        path.symlink_to("nowhere.png")
    elif kind == "link to itself":
        path.symlink_to("x.png")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        *((kind, "1 pipes, sockets, devices (x.png)") for kind in ("pipe", "socket", "device")),
        *((kind, "1 dead links (x.png)") for kind in ("dead link", "link to itself")),
    ],
)
@pytest.mark.parametrize("memory_limit", [8.0, TINY])
def test_what_is_no_file_is_passed_over(
    root: Path, kind: str, said: str, memory_limit: float, capsys: pytest.CaptureFixture[str]
) -> None:
    make_odd(kind, root / "dogs")
    data = ready(image_folder(root, memory_limit=memory_limit, workers=0))
    assert len(data.images) == 5
    assert f"Skipped in {root}: {said}; " in capsys.readouterr().out
    batches(data, 2)


def test_hidden_files_and_those_of_a_mac_are_passed_over(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "cats" / "._n0.png").write_bytes(b"\0\5\x16\7")
    for folder in ("__MACOSX/cats", ".ipynb_checkpoints"):
        (root / folder).mkdir(parents=True)
        (root / folder / "n9.png").write_bytes(b"no image")
    data = ready(image_folder(root))
    assert len(data.images) == 5
    assert list(data.class_names) == ["cats", "dogs"]
    line = f"Skipped in {root}: 3 hidden files or folders (.ipynb_checkpoints); the first of each kind is named.\n"
    assert capsys.readouterr().out.startswith(line)


def test_linked_folders_and_files_are_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for i in range(4):
        picture(16, 16).save(tmp_path / "elsewhere" / f"{i}.png")
    (root / "birds").symlink_to(tmp_path / "elsewhere")
    (root / "cats" / "n9.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    data = ready(image_folder(root))
    assert list(data.class_names) == ["birds", "cats", "dogs"]
    assert data.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
    linked = tmp_path / "link"
    linked.symlink_to(root)
    assert len(ready(image_folder(linked)).images) == 10


def test_loops_of_links_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "cats" / "up").symlink_to(root)
    (root / "dogs" / "self").symlink_to(root / "dogs")
    assert found(root) == IMAGES
    assert len(ready(image_folder(root)).images) == 5
    assert "2 links to a parent folder (up)" in capsys.readouterr().out


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    """All to all, in a dozen folders, where paths without a loop are 12! many."""
    names = [f"f{i:02}" for i in range(12)]
    for name in names:
        (tmp_path / "a" / name).mkdir(parents=True)
        picture(16, 16).save(tmp_path / "a" / name / "n.png")
        for other in names:
            if other != name:
                (tmp_path / "a" / name / other).symlink_to(tmp_path / "a" / other)
    listing = list_images(tmp_path / "a")
    assert sorted({path.parent.name for path in listing.files}) == names
    assert len(listing.files) == 12


def test_a_folder_called_like_an_image_is_a_folder(root: Path) -> None:
    (root / "x.png").mkdir()
    picture(16, 16).save(root / "x.png" / "a.png")
    data = ready(image_folder(root))
    assert list(data.class_names) == ["cats", "dogs", "x.png"]
    assert len(data.images) == 6


def test_a_class_without_images_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "cows").mkdir()
    (root / "cows" / "note.txt").touch()
    assert list(image_folder(root).class_names) == ["cats", "dogs"]
    assert "1 folders without an image (cows)" in capsys.readouterr().out


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", "图像".encode(), b"[bold]x[red]", b"a 'b' \"c\""])
@pytest.mark.parametrize("memory_limit", [8.0, TINY])
def test_any_name_is_read_and_shown_on_one_line(
    root: Path, name: bytes, memory_limit: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file and of a class."""
    folder = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
    folder.mkdir()
    picture(16, 16).save(folder / "a.png")
    (folder / "a.png").rename(folder / os.fsdecode(name + b".png"))
    options: dict[str, Any] = {"memory_limit": memory_limit, "workers": 0, "unreadable": "skip"}
    data = ready(image_folder(root, **options))
    assert len(data.images) == 6
    assert data.fingerprint.startswith("6 ")
    assert all(text.encode().decode().isprintable() for text in data.class_names)
    assert len(data.class_names) == 3
    assert len(ready(image_folder(folder, **options)).images) == 1  # shown beside the bar
    (folder / os.fsdecode(b"b" + name + b".png")).write_bytes(b"no image")
    ready(image_folder(root, **options))
    capsys.readouterr().out.encode()
    with pytest.raises(UsageError, match="is not a readable image") as info:
        ready(image_folder(root, memory_limit=8.0))
    assert str(info.value).isprintable()


def test_a_folder_that_cannot_be_listed_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser, as whom tests may run, may list all."""
    scandir = os.scandir

    def guarded(folder: Path) -> Any:
        if folder.name == "dogs":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UsageError, match=rf"{root}/dogs cannot be read \(Permission denied\): change its perm"):
        list_images(root)


def test_an_empty_root_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^data\.root is empty"):
        ImageFolder("", 2, 16)


FORMATS = {".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"}  # which Pillow writes as color otherwise


@pytest.mark.parametrize("ending", [*sorted(IMAGE_ENDINGS), ".JPEG", ".Png", ".JFIF"])
def test_every_ending_is_an_image_that_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    Image.new("1" if ending == ".pbm" else "L", (16, 16), 255).save(path, FORMATS.get(ending))
    (tmp_path / "a.txt").touch()
    listing = list_images(tmp_path)
    assert (listing.files, listing.others) == ([path], {})
    assert read_image(path, (3, 16, 16)).min() > 250


def test_images_that_are_not_read_are_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.heic", "b.SVG", "c.jxl", "notes.txt", "index.csv"):
        (root / "cats" / name).touch()
    assert image_folder(root).names() == IMAGES
    (line,) = capsys.readouterr().out.splitlines()
    kind = "images in formats that are not read"
    assert line == f"Skipped in {root}: 3 {kind} (a.heic); the first of each kind is named."
