"""Atomic writes: the whole file or folder, or what was there before, and nothing beside it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.files import atomic_directory, atomic_file, sha256, size_bytes, write_atomic


def names(folder: Path) -> list[str]:
    """Everything in `folder`, hidden files included."""
    return sorted(os.listdir(folder))


def fill_half(path: Path, failure: type[BaseException]) -> None:
    """Write one file of a directory and then fail."""
    with atomic_directory(path) as folder:
        (folder / "half").write_text("half")
        raise failure


@given(
    first=st.binary(max_size=200), second=st.one_of(st.binary(max_size=200), st.text(alphabet="aé→\n\0", max_size=20))
)
def test_write_replaces_the_whole_file_and_leaves_nothing_beside_it(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes | str
) -> None:
    folder = tmp_path_factory.mktemp("write")
    write_atomic(folder / "a.bin", first)
    write_atomic(folder / "a.bin", second)
    assert (folder / "a.bin").read_bytes() == (second if isinstance(second, bytes) else bytes(second, "utf-8"))
    assert names(folder) == ["a.bin"]


def test_write_makes_missing_folders(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "c.txt", "text")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"


def test_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    write_atomic(tmp_path / "atomic", "")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_full_disk_keeps_the_old_content_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomic(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_write_below_a_file_fails_and_keeps_that_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError):  # noqa: PT011  (which one depends on the system)
        write_atomic(tmp_path / "file" / "a.txt", "text")
    assert (tmp_path / "file").read_text() == "kept"
    assert names(tmp_path) == ["file"]


def test_write_onto_a_folder_fails_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):  # noqa: PT011
        write_atomic(tmp_path / "folder", "text")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["inside"]


def test_directory_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["a"]


def test_directory_replaces_an_older_one_wholly(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
        assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path / "out") == ["new"]
    assert names(tmp_path) == ["out"]


def test_directory_has_the_permissions_of_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "ordinary").mkdir()
    with atomic_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [False, True])
def test_failing_block_leaves_what_was_there(tmp_path: Path, failure: type[BaseException], existed: bool) -> None:
    if existed:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(failure):
        fill_half(tmp_path / "out", failure)
    assert names(tmp_path) == (["out"] if existed else [])
    if existed:
        assert (tmp_path / "out" / "old").read_text() == "old"


def test_directory_below_a_file_fails_and_keeps_that_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError), atomic_directory(tmp_path / "file" / "out"):  # noqa: PT011
        pass
    assert (tmp_path / "file").read_text() == "kept"
    assert names(tmp_path) == ["file"]


def test_directory_that_cannot_be_made_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)  # which leaves no room for a temporary name's ending
    with pytest.raises(OSError, match="name too long") as raised, atomic_directory(path):
        pass
    assert raised.value.filename == str(path)


def test_directory_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(OSError), atomic_directory(tmp_path / "out") as folder:  # noqa: PT011
        (folder / "a").write_text("1")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "kept"


def test_directory_that_was_reached_through_a_link_is_replaced_and_leaves_no_rest(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    assert names(tmp_path / "out") == ["a"]
    assert names(tmp_path) == ["out", "real"]


def test_failing_swap_leaves_the_older_directory_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse_new(path: Path, target: Path) -> Path:
        if (path / "new").exists():
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="Permission denied"), atomic_directory(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "old").read_text() == "old"


def test_block_that_lost_its_folder_leaves_the_older_directory_in_place(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "out") as folder:
        shutil.rmtree(folder)
    assert names(tmp_path) == ["out"]


def test_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_hash_of_a_folder_is_over_sorted_relative_names_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "m" / "Data").mkdir(parents=True)
    (tmp_path / "m" / "Manifest.json").write_bytes(b"{}")
    (tmp_path / "m" / "Data" / "w.bin").write_bytes(b"\0\1")
    lines = [
        f"Data/w.bin\0{hashlib.sha256(bytes([0, 1])).hexdigest()}\n",
        f"Manifest.json\0{hashlib.sha256(b'{}').hexdigest()}\n",
    ]
    assert sha256(tmp_path / "m") == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_hash_of_a_folder_tells_renamed_moved_and_changed_files_apart(tmp_path: Path) -> None:
    layouts = [{"a": b"1", "b": b"2"}, {"a": b"2", "b": b"1"}, {"a": b"1", "c": b"2"}, {"a": b"1", "d/b": b"2"}]
    hashes = set()
    for number, files in enumerate(layouts):
        for name, content in files.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        hashes.add(sha256(tmp_path / str(number)))
    assert len(hashes) == len(layouts)


def test_size_counts_the_bytes_of_a_file_and_of_all_files_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m" / "deep").mkdir(parents=True)
    (tmp_path / "m" / "a").write_bytes(bytes(3))
    (tmp_path / "m" / "deep" / "b").write_bytes(bytes(40))
    assert size_bytes(tmp_path / "m" / "a") == 3
    assert size_bytes(tmp_path / "m") == 43


def test_a_file_that_others_write_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert names(path.parent) == ["a.bin"]


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_file(tmp_path / "a.bin"):
        (tmp_path / "missing").read_bytes()
    assert caught.value.filename == str(tmp_path / "missing")
    assert names(tmp_path) == []
