"""The store on a real PostgreSQL server: the same records, sessions and migrations as in a file, by several at once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from devices import store
from devices.journal import Journal
from devices.records import Profile
from devices.sessions import Began, Failed, Loaded, Plan, Round
from devices.tables import Base
from tests.command_line import handheld, refusal
from tests.devices.postgres import FOLDERS, PASSWORD, Server, free_port, server
from tests.devices.test_live import plan
from tests.programs import needs
from toolkit.errors import UserError
from toolkit.parity import Parity, Tolerance

pytestmark = [pytest.mark.slow, needs("postgres", "initdb", "pg_isready", folders=FOLDERS)]

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server() as found:
        yield found


@pytest.fixture
def url(running: Server) -> str:
    """A new database of the test's own."""
    name = f"profiles_{next(NUMBERS)}"
    engine = sa.create_engine(running.url(), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return running.url(name)


def loaded(candidate: int) -> Loaded:
    tolerance = Tolerance(max_share=1.0)
    parity = Parity(how="executed", runtime="r", max_abs=0, scale=1, psnr_db=None, tolerance=tolerance, passed=True)
    return Loaded(candidate=candidate, runtime="R 1", load_ms=1, first_ms=1, warmup_ms=[1, 1, 1], parity=parity)


def began(repeat: int) -> Began:
    return Began(repeat=repeat, started="t", waited_s=0, cooled=True, temperature_c=None, clock_mhz=None)


def test_records_come_back_whole_and_in_order(make_record: Any, url: str) -> None:
    records = [make_record(times=[1 / 3, 2.0], target=target) for target in ("onnx-fp32", "reference", "coreml-fp16")]
    assert store.add(records, url) == url
    assert store.load(url) == records
    assert store.load(url, bundle="nobody's") == []


def test_a_stopped_session_goes_on_and_is_finished_once(url: str) -> None:
    def stopped() -> None:
        with Journal(url).session(plan()) as session:
            session.add(loaded(0))
            session.add(began(0))
            session.add(Round(times_ms=[10.0]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert store.load(url) == []
    with Journal(url).session(plan(session="2" * 32), resume=True) as session:
        assert session.plan.session == "1" * 32
        assert session.rounds_done == 1
        session.add(loaded(0))
        session.add(Round(times_ms=[20.0]))
    (record,) = store.load(url)
    assert record.latency.iterations_ms == [10.0, 20.0]
    assert record.interruptions == 1
    with Journal(url).session(plan(session="3" * 32), resume=True) as session:
        assert session.plan.session == "3" * 32
        session.add(loaded(0))


def test_failures_are_found_again(url: str) -> None:
    two = plan(targets=("onnx-fp32", "coreml-fp16"))
    with Journal(url).session(two) as session:
        session.add(loaded(0))
        session.add(began(0))
        session.add(Round(times_ms=[10.0, None]))
        session.add(Failed(candidate=1, reason="no such runtime"))
    (failure,) = Journal(url).failures()
    assert (failure.target, failure.kind, failure.reason) == ("coreml-fp16", "failed", "no such runtime")


def test_a_store_of_the_first_release_is_brought_up_to_date(make_record: Any, url: str) -> None:
    """Its records had no repeats, and it had no sessions."""
    record = make_record(times=[3.0, 4.0])
    content = record.model_dump(mode="json")
    content["record_version"], content["latency"]["iterations_ms"] = 1, [3.0, 4.0]
    del content["latency"]["repeats"]
    engine = sa.create_engine(url)
    old = Base.metadata.tables["profiles"]
    row = {"created": "c", "session": "s", "bundle": "tiny", "target": "t", "device": "box", "p50_ms": 3.5}
    with engine.begin() as connection:
        old.create(connection)
        connection.execute(old.insert().values(**row, artifact_sha256="0" * 64, record=content))
    engine.dispose()
    (found,) = store.load(url)
    assert found.latency.iterations_ms == [3.0, 4.0]
    store.add([record], url)
    assert len(store.load(url)) == 2
    with store.opened(url) as opened, opened.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_several_who_open_a_new_store_at_once_all_keep_their_records(make_record: Any, url: str) -> None:
    def write(number: int) -> None:
        for _ in range(3):
            store.add([make_record(session=str(number) * 32)], url)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert sorted(record.session[0] for record in store.load(url)) == sorted("012345" * 3)


def test_two_sessions_at_once_keep_their_events_apart(url: str) -> None:
    def measure(number: int) -> None:
        mine: Plan = plan(model=f"Phone {number}", session=str(number) * 32)
        with Journal(url).session(mine) as session:
            session.add(loaded(0))
            session.add(began(0))
            for _ in range(20):
                session.add(Round(times_ms=[float(number)]))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(measure, (1, 2)))
    found = {record.device.model: set(record.latency.iterations_ms) for record in store.load(url)}
    assert found == {"Phone 1": {1.0}, "Phone 2": {2.0}}


def test_every_wait_for_the_server_is_bounded(url: str) -> None:
    with store.opened(url) as engine, engine.connect() as connection:
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar() == "1min"
        told = connection.connection.driver_connection.info.get_parameters()
    bounds = {name: told[name] for name in ("connect_timeout", *store.KEPT_ALIVE) if name in told}
    assert bounds["tcp_user_timeout"] == "30000"
    assert (bounds["keepalives_idle"], bounds["keepalives_interval"], bounds["keepalives_count"]) == ("30", "10", "3")
    with store.opened(url + "?options=-c%20statement_timeout%3D5s") as engine, engine.connect() as connection:
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar() == "5s", "the user's own goes before"


def test_a_session_outlives_the_connections_that_the_server_ended(running: Server, url: str) -> None:
    with Journal(url).session(plan()) as session:
        session.add(loaded(0))
        session.add(began(0))
        engine = sa.create_engine(running.url())
        with engine.connect() as connection:
            others = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
            assert connection.execute(others, {"name": sa.make_url(url).database}).all()
        engine.dispose()
        session.add(Round(times_ms=[10.0]))
    (record,) = store.load(url)
    assert record.latency.iterations_ms == [10.0]


def test_names_longer_than_the_columns_are_kept(make_record: Any, url: str) -> None:
    record = make_record(bundle="b" * 300)
    record = record.model_copy(update={"device": record.device.model_copy(update={"name": "d" * 300})})
    store.add([record], url)
    assert store.load(url, bundle="b" * 300) == [record]


@pytest.mark.parametrize("wrong", ["password", "port", "host", "database"])
def test_a_server_that_refuses_is_one_line_without_the_password(running: Server, wrong: str) -> None:
    address = {
        "password": running.url(password="wr0ng"),
        "port": running.url(port=free_port()),
        "host": running.url().replace("127.0.0.1", "no-such-host.invalid"),
        "database": running.url("nowhere"),
    }[wrong]
    with pytest.raises(UserError, match=r"profile store .*cannot be used .*--store or HANDHELD_STORE") as caught:
        store.load(address)
    message = str(caught.value)
    assert "\n" not in message
    assert "wr0ng" not in message
    assert PASSWORD not in message
    reason = {
        "password": "password authentication failed",
        "port": "refused",
        "host": "resolve",
        "database": "does not exist",
    }
    assert reason[wrong] in message


def test_lines_are_brought_in_once(make_record: Any, url: str, tmp_path: Any) -> None:
    records = [make_record(times=[1 / 3]), make_record(role="teacher")]
    store.write_lines(records, tmp_path / "all.jsonl")
    assert store.bring_in(store.read_lines(tmp_path / "all.jsonl"), url) == 2
    assert store.bring_in(store.read_lines(tmp_path / "all.jsonl"), url) == 0
    assert store.load(url) == records


def test_several_who_bring_in_the_same_records_at_once_bring_them_in_once(make_record: Any, url: str) -> None:
    records = [make_record(session=letter * 32) for letter in "abcdef"]
    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(lambda _: store.bring_in(records, url), range(6))) == len(records)
    assert store.load(url) == records


def test_the_command_line_lists_and_reports_from_the_server_without_its_password(
    make_record: Any, url: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add([make_record(), make_record(session="b" * 32, created="2026-02-02T03:04:05+00:00")], url)
    assert handheld("profiles", "list", "--store", url) == 0
    assert handheld("report", "--store", url, "--output", tmp_path / "report.html") == 0
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err
    assert "Example CPU" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert PASSWORD not in refusal(capsys, 2, "profiles", "list", "--store", url + "_not")


def test_a_json_file_of_the_servers_records_reads_alike(make_record: Any, url: str, tmp_path: Any) -> None:
    store.add([make_record(times=[1 / 3])], url)
    store.write_json(Profile(records=store.load(url)), tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["records"][0]["latency"]["repeats"]
