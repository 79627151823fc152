"""ONNX Runtime Web: the user's own, or fetched, checked and kept; never a part of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from devices.browser import assets, profiler
from toolkit.errors import UserError

CONTENT = {name: name.encode() for name in assets.FILES}


def package(path: Path, version: str = "1.2.3", leave_out: str = "") -> Path:
    """A tarball such as `npm pack` makes, with more in it than is needed."""
    files = {f"package/dist/{name}": content for name, content in CONTENT.items() if name != leave_out}
    files |= {"package/package.json": json.dumps({"version": version}).encode(), "package/../../outside": b"x"}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    monkeypatch.setattr(assets, "PAUSE_S", 0.0)
    monkeypatch.setattr(
        assets, "FILES", {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    )
    return tmp_path / "cache"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the registry would give, as a file of this machine."""
    path = package(tmp_path / "published.tgz")
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(assets, "URL", path.as_uri())
    monkeypatch.setattr(assets, "INTEGRITY", f"sha512-{digest}")
    return path


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_it_is_fetched_once_and_kept(published: Path) -> None:
    found = assets.assets()
    assert found.version == assets.VERSION
    assert {name: (found.folder / name).read_bytes() for name in CONTENT} == CONTENT
    published.unlink()
    assert assets.assets() == found


def test_what_was_changed_in_the_cache_is_fetched_again(published: Path) -> None:
    found = assets.assets()
    changed = found.folder / next(iter(CONTENT))
    changed.write_bytes(b"changed")
    assert assets.cached() is None
    assets.assets()
    assert changed.read_bytes() == CONTENT[changed.name]


def test_other_content_than_was_published_is_not_kept(published: Path, own_cache: Path) -> None:
    package(published, version="6.6.6")
    with pytest.raises(UserError, match="its hash does not fit"):
        assets.assets()
    assert kept(own_cache) == []


def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "URL", (tmp_path / "unreachable.tgz").as_uri())
    with pytest.raises(UserError, match=r"could not be fetched .* HANDHELD_ORT_WEB=FILE"):
        assets.assets()
    assert kept(own_cache) == []
    assert "is fetched from the npm registry at first use" in str(profiler.problem())


class Registry(ThreadingHTTPServer):
    """A registry of this machine, which breaks off its first `failures` answers in the middle of a part."""

    def __init__(self, content: bytes, failures: int) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.failures, self.asked = content, failures, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/package.tgz"


class Answer(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n" % len(self.server.content))
        if self.server.asked <= self.server.failures:
            self.wfile.write(self.server.content[:-1])
        else:
            self.wfile.write(self.server.content + b"\r\n0\r\n\r\n")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def registry(published: Path, failures: int) -> Iterator[Registry]:
    with Registry(published.read_bytes(), failures) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(30)


def test_a_connection_that_breaks_off_is_tried_once_more(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registry(published, failures=1) as server:
        monkeypatch.setattr(assets, "URL", server.url)
        assert assets.assets() == assets.cached()
        assert server.asked == 2


def test_connections_that_always_break_off_are_one_clear_error(
    published: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(published, failures=9) as server:
        monkeypatch.setattr(assets, "URL", server.url)
        with pytest.raises(UserError, match=r"could not be fetched \(IncompleteRead.* HANDHELD_ORT_WEB=FILE"):
            assets.assets()
        assert server.asked == 2
    assert kept(own_cache) == []


def test_what_another_process_fetched_meanwhile_is_taken(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = assets._unpack

    def overtaken(tarball: Path, folder: Path) -> None:
        fetch(tarball, folder)
        raise FileExistsError("the folder is there")

    monkeypatch.setattr(assets, "_unpack", overtaken)
    found = assets.assets()
    assert {name: (found.folder / name).read_bytes() for name in CONTENT} == CONTENT


def test_the_users_tarball_is_used_with_its_own_version(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(assets.VARIABLE, str(package(tmp_path / "own.tgz", version="9.8.7")))
    found = assets.assets()
    assert found.version == "9.8.7"
    assert {path.name for path in kept(own_cache)} == {*CONTENT, "package.json"}
    assert profiler.problem() is None


def test_the_users_folder_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "9.8.7"}')
    for name, content in CONTENT.items():
        (folder / "dist" / name).write_bytes(content)
    monkeypatch.setenv(assets.VARIABLE, str(folder))
    assert assets.assets() == (folder / "dist", "9.8.7")


def test_what_is_no_such_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = next(iter(CONTENT))
    (tmp_path / "text.tgz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    package(tmp_path / "part.tgz", leave_out=missing)
    for name, reason in (
        ("text.tgz", "is no npm package"),
        ("part.tgz", f"lacks package/dist/{missing}"),
        ("empty", f"lacks {missing}"),
        ("nowhere", "no such folder or tarball"),
    ):
        monkeypatch.setenv(assets.VARIABLE, str(tmp_path / name))
        with pytest.raises(UserError, match=reason):
            assets.assets()


@pytest.mark.parametrize("damage", ["cut off", "changed", "wrong sum"])
def test_a_damaged_tarball_is_one_clear_error(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setitem(CONTENT, next(iter(CONTENT)), random.Random(0).randbytes(200_000))
    whole = package(tmp_path / "own.tgz").read_bytes()
    damaged = {
        "cut off": whole[:100_000],
        "changed": whole[:100] + bytes(1000) + whole[1100:],
        "wrong sum": whole[:-8] + bytes(8),
    }[damage]
    (tmp_path / "own.tgz").write_bytes(damaged)
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path / "own.tgz"))
    with pytest.raises(UserError, match="no npm package, or a damaged one; name the tarball"):
        assets.assets()
    assert kept(own_cache) == []


def test_a_browser_is_always_listed() -> None:
    (listed,) = profiler.list_browser()
    assert (listed.name, listed.state) == ("browser", "ready")
