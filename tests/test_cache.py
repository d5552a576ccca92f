"""Caches: found whole, made again where they are damaged, and refused before anything is read where they cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_lightning.cache import cache_folder, cached, digest_of
from gan_lightning.errors import UsageError

CONTENT = {"images": torch.arange(4096, dtype=torch.uint8).view(16, 256), "share": 0.5, "parts": [torch.ones(3), "x"]}


def same(first: Any, second: Any) -> bool:
    return digest_of(first) == digest_of(second)


def never() -> Any:
    pytest.fail("made again")


def test_it_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "a.pt"
    assert cached(path, lambda: CONTENT) is CONTENT
    assert same(cached(path, never), CONTENT)
    assert list(path.parent.iterdir()) == [path]
    assert capsys.readouterr().out == ""


OTHERS: list[Any] = [
    {**CONTENT, "share": 0.25},
    {**CONTENT, "images": CONTENT["images"].view(256, 16)},
    {**CONTENT, "images": CONTENT["images"].view(torch.int8)},
    {**CONTENT, "parts": [torch.tensor([1.0, 1.0, 1.0 + 2**-23]), "x"]},
    {**CONTENT, "parts": [torch.ones(3), "y"]},
    {**CONTENT, "more": None},
    [],
]


@pytest.mark.parametrize("other", OTHERS)
def test_the_digest_tells_apart(other: Any) -> None:
    assert not same(other, CONTENT)


def test_scalars_and_empty_tensors_have_digests() -> None:
    values: list[Tensor] = [torch.tensor(1), torch.tensor(1.0), torch.empty(0), torch.empty(0, 3), torch.tensor(True)]
    assert len({digest_of(value) for value in values}) == 5


def test_no_damage_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every 37th byte flipped, and the file cut everywhere: made again, or nothing of the content has changed."""
    path = tmp_path / "a.pt"
    cached(path, lambda: CONTENT)
    whole = path.read_bytes()
    flips = [whole[:i] + bytes([whole[i] ^ 0x40]) + whole[i + 1 :] for i in range(0, len(whole), 37)]
    cuts = [whole[: len(whole) * i // 20] for i in range(20)]
    made = []
    for damaged in [*flips, *cuts, b"", b"no file of torch's"]:
        path.write_bytes(damaged)
        before = len(made)
        assert same(cached(path, lambda: made.append(1) or CONTENT), CONTENT)
        is_said = f"{path} is damaged: it is recreated." in capsys.readouterr().out.replace("\n", "")
        assert is_said == (len(made) > before)
    assert len(made) > len(cuts) + 100


def test_a_cache_of_another_version_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save((torch.zeros(3), torch.zeros(3)), path)
    assert same(cached(path, lambda: CONTENT), CONTENT)
    assert same(cached(path, never), CONTENT)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".b.9999999.pt").write_bytes(b"half")  # above the largest pid
    cached(tmp_path / "a.pt", lambda: CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_disk_that_is_full_costs_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert cached(tmp_path / "a.pt", lambda: CONTENT) is CONTENT
    assert "No space left on device): the next run will recreate it." in capsys.readouterr().out.replace("\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "cache", tmp_path / "file", Path("/proc/cache")):
        with pytest.raises(UsageError, match=rf"^data\.cache={folder} cannot be written \(.+\): give another "):
            cache_folder(folder)
    assert cache_folder(tmp_path / "a" / "b").is_dir()


def test_an_empty_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one with caches in it, that may be all that is needed, is not; the superuser may write everywhere."""

    def denied(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(UsageError, match=rf"^data\.cache={tmp_path} cannot be written \(Permission denied\)"):
        cache_folder(tmp_path)
    (tmp_path / "a.pt").touch()
    assert cache_folder(tmp_path) == tmp_path


def test_without_a_home_there_is_no_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UsageError, match=r"^data\.cache=~/\.cache cannot be written \(Could not determine home dir"):
        cache_folder("~/.cache")
