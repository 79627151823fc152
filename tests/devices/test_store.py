"""The store of profile records: what goes in comes out, all or none, and an unusable store is the user's error."""

from __future__ import annotations

import json
import math
import multiprocessing
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from devices import store
from devices.records import Profile, ProfileRecord
from devices.tables import Base, ProfileRow
from tests.command_line import handheld
from toolkit.errors import UserError


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "profiles.db"


@pytest.fixture
def url(database: Path) -> str:
    return f"sqlite:///{database}"


def test_records_come_back_whole_and_in_order(make_record: Any, url: str) -> None:
    records = [make_record(times=[1 / 3, 2.0], target=target) for target in ("onnx-fp32", "reference", "coreml-fp16")]
    assert store.add(records, url) == url
    assert store.load(url) == records


def test_later_records_are_added_to_earlier_ones(make_record: Any, url: str) -> None:
    first, second = make_record(session="1" * 32), make_record(session="2" * 32)
    store.add([first], url)
    store.add([second], url)
    assert store.load(url) == [first, second]


def test_records_are_found_by_bundle(make_record: Any, url: str) -> None:
    ours, theirs = make_record(bundle="ours"), make_record(bundle="theirs")
    store.add([ours, theirs], url)
    assert store.load(url, bundle="theirs") == [theirs]
    assert store.load(url, bundle="nobody's") == []


def test_new_store_is_empty_and_its_folder_is_made(url: str, database: Path) -> None:
    assert store.load(url) == []
    assert database.is_file()


def test_columns_for_queries_say_what_the_record_says(make_record: Any, url: str, database: Path) -> None:
    store.add([make_record(times=[30.0, 10.0, 20.0])], url)
    with sqlite3.connect(database) as connection:
        row = connection.execute("SELECT session, bundle, target, device, p50_ms, created FROM profiles").fetchone()
    connection.close()
    assert row == ("a" * 32, "tiny", "onnx-fp32", "box", 20.0, "2026-01-02T03:04:05+00:00")


def test_one_record_that_cannot_be_kept_keeps_all_others_out(make_record: Any, url: str) -> None:
    kept = make_record()
    store.add([kept], url)
    with pytest.raises(UserError):
        store.add([make_record(), make_record(times=[math.nan]), make_record()], url)
    assert store.load(url) == [kept]


@pytest.mark.parametrize("use", ["add", "load"])
@pytest.mark.parametrize("place", ["below a file", "a folder", "no database", "unknown driver", "no URL"])
def test_unusable_store_is_refused_with_a_remedy(make_record: Any, tmp_path: Path, place: str, use: str) -> None:
    (tmp_path / "file").write_bytes(b"no database, just text " * 50)
    url = {
        "below a file": f"sqlite:///{tmp_path}/file/profiles.db",
        "a folder": f"sqlite:///{tmp_path}",
        "no database": f"sqlite:///{tmp_path}/file",
        "unknown driver": "nosuchdatabase://host/profiles",
        "no URL": "profiles",
    }[place]
    with pytest.raises(UserError, match=r"cannot be used .*--store or HANDHELD_STORE") as caught:
        store.add([make_record()], url) if use == "add" else store.load(url)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_error_about_a_team_store_never_shows_its_password() -> None:
    with pytest.raises(UserError) as caught:
        store.load("nosuchdatabase://someone:s3cret@host/profiles")
    assert "s3cret" not in str(caught.value)
    assert "host/profiles" in str(caught.value)


def test_record_of_another_release_is_refused(make_record: Any, url: str, database: Path) -> None:
    store.add([make_record()], url)
    with sqlite3.connect(database) as connection:
        connection.execute("""UPDATE profiles SET record = '{"record_version": 99}'""")
    connection.close()
    with pytest.raises(UserError, match=r"profiles\.db"):
        store.load(url)


def test_json_file_round_trip(make_record: Any, tmp_path: Path) -> None:
    records = [make_record(times=[1 / 3]), make_record(role="teacher", memory=None, operators=[])]
    store.write_json(Profile(records=records), tmp_path / "out" / "records.json")
    assert store.read_json(tmp_path / "out" / "records.json").records == records


def test_missing_json_file_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: no such file .*handheld profile --json"):
        store.read_json(tmp_path / "absent.json")


@pytest.mark.parametrize("content", [b"", b"[", b"{}x", b'[{"a": 1}]', b"3", b"null", b"\xff"])
def test_json_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.json").write_bytes(content)
    with pytest.raises(UserError, match=r"other\.json: not a file of profile records"):
        store.read_json(tmp_path / "other.json")


def test_a_store_of_the_first_release_is_brought_up_to_date(make_record: Any, url: str, database: Path) -> None:
    """Its tables were made without migrations, and its records had no repeats."""
    record = make_record(times=[3.0, 4.0])
    content = record.model_dump(mode="json")
    content["record_version"], content["latency"]["iterations_ms"] = 1, [3.0, 4.0]
    del content["latency"]["repeats"]
    database.parent.mkdir()
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TABLE profiles (id INTEGER PRIMARY KEY, created VARCHAR(40) NOT NULL, session VARCHAR(32) NOT NULL,"
            " bundle VARCHAR(200) NOT NULL, target VARCHAR(80) NOT NULL, device VARCHAR(200) NOT NULL,"
            " artifact_sha256 VARCHAR(64) NOT NULL, p50_ms FLOAT NOT NULL, record JSON NOT NULL)"
        )
        row = ("c", "s", "tiny", "onnx-fp32", "box", "0" * 64, 3.5, json.dumps(content))
        connection.execute(f"INSERT INTO profiles VALUES (1, {', '.join('?' * len(row))})", row)
    connection.close()
    (found,) = store.load(url)
    assert found.latency.iterations_ms == [3.0, 4.0]
    assert found.record_version == 2
    store.add([record], url)
    assert len(store.load(url)) == 2


def test_a_team_store_without_its_driver_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"psycopg2 is not installed; pip install 'handheld\[postgres\]'") as caught:
        store.load("postgresql+psycopg2://someone:s3cret@host/profiles")
    assert "s3cret" not in str(caught.value)


def test_lines_round_trip_a_record_a_line(make_record: Any, tmp_path: Path) -> None:
    records = [make_record(times=[1 / 3], bundle="naïve\u2028name"), make_record(role="teacher", memory=None)]
    store.write_lines(records, tmp_path / "out" / "all.jsonl")
    assert store.read_lines(tmp_path / "out" / "all.jsonl") == records
    lines = (tmp_path / "out" / "all.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["profile_line"] for line in lines] == [1, 1]


def test_lines_of_several_files_in_one_are_read(make_record: Any, tmp_path: Path) -> None:
    first, second = make_record(), make_record(session="b" * 32)
    store.write_lines([first], tmp_path / "a.jsonl")
    store.write_lines([second], tmp_path / "b.jsonl")
    joined = tmp_path / "joined.jsonl"
    joined.write_text((tmp_path / "a.jsonl").read_text() + "\n" + (tmp_path / "b.jsonl").read_text())
    assert store.read_lines(joined) == [first, second]


def test_a_record_that_is_there_is_not_brought_in_again(make_record: Any, url: str) -> None:
    held, other = make_record(), make_record(session="b" * 32)
    alike = [make_record(target="reference"), make_record(unit="all"), make_record(unit="webgpu")]
    store.add([held], url)
    assert store.bring_in([held, *alike, other, other], url) == 4
    assert store.bring_in([held, *alike, other], url) == 0
    assert store.load(url) == [held, *alike, other]


def test_lines_of_an_earlier_release_are_brought_up_to_date(make_record: Any, tmp_path: Path) -> None:
    content = make_record(times=[3.0, 4.0]).model_dump(mode="json")
    content["record_version"], content["latency"]["iterations_ms"] = 1, [3.0, 4.0]
    del content["latency"]["repeats"]
    (tmp_path / "old.jsonl").write_text(json.dumps({"profile_line": 1, "record": content}))
    (found,) = store.read_lines(tmp_path / "old.jsonl")
    assert found.latency.iterations_ms == [3.0, 4.0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"no json", "no profile record"),
        (b"[]", "no profile record"),
        (b'{"profile_line": 1}', "no profile record"),
        (b'{"profile_line": 1, "record": 3}', "no profile record"),
        (b"\xff", "no profile record"),
        (b'{"profile_line": 2, "record": {"record_version": 2}}', "not a record of this release"),
        (b'{"profile_line": 1, "record": {"record_version": 99}}', "not a record of this release"),
    ],
)
def test_a_line_of_something_else_is_named(make_record: Any, tmp_path: Path, line: bytes, reason: str) -> None:
    store.write_lines([make_record()], tmp_path / "all.jsonl")
    with (tmp_path / "all.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(UserError, match=rf"all\.jsonl, line 2: {reason}"):
        store.read_lines(tmp_path / "all.jsonl")


def test_a_missing_file_of_lines_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file.*handheld profiles export"):
        store.read_lines(tmp_path / "absent.jsonl")


def test_the_command_line_takes_records_from_one_store_to_another(
    make_record: Any, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add([make_record(bundle="ours"), make_record(bundle="theirs")], url)
    lines, other = tmp_path / "all.jsonl", f"sqlite:///{tmp_path / 'other.db'}"
    assert handheld("profiles", "export", lines, "--store", url, "--bundle", "ours") == 0
    assert handheld("profiles", "import", lines, "--store", other) == 0
    assert "1 new records, 0 held already" in capsys.readouterr().out
    assert handheld("profiles", "import", lines, "--store", other) == 0
    assert "0 new records, 1 held already" in capsys.readouterr().out
    assert handheld("profiles", "list", "--store", other, "--json") == 0
    (session,) = json.loads(capsys.readouterr().out)
    assert [record["bundle"] for record in session["records"]] == ["ours"]


def test_two_who_bring_in_the_same_records_at_once_bring_them_in_once(
    make_record: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.check_writable(url)
    make = store.row_of

    def slowly(record: ProfileRecord) -> ProfileRow:
        time.sleep(0.3)  # so that both are between reading and writing at once, where they may be
        return make(record)

    monkeypatch.setattr(store, "row_of", slowly)
    records = [make_record(), make_record(session="b" * 32)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        assert sum(pool.map(lambda _: store.bring_in(records, url), range(2))) == 2
    assert store.load(url) == records


def test_names_longer_than_the_columns_are_whole_in_the_records(make_record: Any, url: str, database: Path) -> None:
    long, alike = make_record(bundle="b" * 300), make_record(bundle="b" * 301)
    long = long.model_copy(update={"device": long.device.model_copy(update={"name": "d" * 300})})
    store.add([long, alike], url)
    with sqlite3.connect(database) as connection:
        row = connection.execute("SELECT bundle, device FROM profiles").fetchone()
    connection.close()
    assert row == ("b" * 200, "d" * 200)
    assert store.load(url, bundle="b" * 300) == [long]
    assert store.load(url, bundle="b" * 200) == []


def tables(database: Path) -> list[str]:
    with sqlite3.connect(database) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    connection.close()
    return [name for (name,) in found]


def test_a_migration_that_fails_leaves_nothing_and_can_be_tried_again(
    make_record: Any, url: str, database: Path
) -> None:
    database.parent.mkdir()
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE events (something_else INTEGER)")
    connection.close()
    with pytest.raises(UserError, match="events already exists"):
        store.load(url)
    assert tables(database) == ["events"], "not the tables that are made before it"
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE events")
    connection.close()
    store.add([make_record()], url)
    assert tables(database) == ["alembic_version", "events", "profiles", "sessions"]


def open_all(urls: list[str], together: Barrier) -> None:
    for url in urls:
        together.wait(60)
        store.check_writable(url)


@pytest.mark.slow
def test_several_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    anew = multiprocessing.get_context("spawn")
    urls, together = [f"sqlite:///{tmp_path}/{number}.db" for number in range(8)], anew.Barrier(3)
    processes = [anew.Process(target=open_all, args=(urls, together), daemon=True) for _ in range(3)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()


def test_the_migrations_make_the_tables_that_the_code_uses(url: str) -> None:
    with store.opened(url) as engine, engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []


def test_several_threads_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"

    def use(_: int) -> int:
        with store.opened(url):
            return 1

    with ThreadPoolExecutor(max_workers=4) as pool:
        assert sum(pool.map(use, range(8))) == 8
