"""Where profile records are kept: a SQLite file by default, any SQLAlchemy URL for a team."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from platformdirs import user_data_path
from pydantic import ValidationError
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from devices.records import Profile, ProfileRecord, upgraded
from devices.tables import ProfileRow
from toolkit.errors import UserError
from toolkit.files import write_atomic
from toolkit.limits import MAX_JSON_BYTES, parse_json, read_text

LINE_VERSION = 1
CONNECT_S = 10  # until a server that does not answer is given up
LOCK_S = 60  # until one that another writes to is, and a statement on a server
LOCK = 0x68616E64  # Handheld's number among PostgreSQL's advisory locks: for migrations; the next one is for imports
NAME = 200  # characters of a name that queries ask for; the record has it whole
#: How soon a connection to a server that is gone is known to be: seconds, and for the last, milliseconds.
KEPT_ALIVE = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_MIGRATING = threading.Lock()
MIGRATIONS = Path(__file__).parent / "migrations"


def default_url() -> str:
    """`profiles.db` in the user's data folder."""
    return f"sqlite:///{user_data_path('handheld') / 'profiles.db'}"


def check_writable(url: str | None = None) -> None:
    """Raise `UserError` where the store could not take records; creates it where it is not there yet."""
    add([], url)


def add(records: Sequence[ProfileRecord], url: str | None = None) -> str:
    """Keep records, all or none; returns the store's URL. Raises `UserError` where the store cannot be written."""
    url = url or default_url()
    with opened(url) as engine, Session(engine) as session, session.begin():
        session.add_all(row_of(record) for record in records)
    return url


def bring_in(records: Sequence[ProfileRecord], url: str | None = None) -> int:
    """Keep the records that the store does not hold yet, all or none; how many those were.

    A record is known by its session, bundle, artifact and runtime, so the same file can be brought in again and again.
    Raises `UserError` where the store cannot be used, or is a later release's.
    """
    url = url or default_url()
    sessions = {record.session for record in records}
    with opened(url) as engine, Session(engine) as session, session.begin():
        _lock(session.connection(), LOCK + 1)  # two at once would both find that a record is not there
        held = session.scalars(select(ProfileRow).where(ProfileRow.session.in_(sessions)))
        known = {_key(_record(row.record, url)) for row in held}
        new = {key: record for record in records if (key := _key(record)) not in known}
        session.add_all(row_of(record) for record in new.values())
    return len(new)


def load(url: str | None = None, bundle: str | None = None) -> list[ProfileRecord]:
    """Records in the order in which they were made, of one bundle's name if given."""
    url = url or default_url()
    query = select(ProfileRow).order_by(ProfileRow.id)
    if bundle is not None:
        query = query.where(ProfileRow.bundle == bundle[:NAME])
    with opened(url) as engine, Session(engine) as session:
        rows = [row.record for row in session.scalars(query)]
    records = [_record(row, url) for row in rows]
    return [record for record in records if bundle is None or record.bundle == bundle]


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    """The store's engine, its tables brought up to date. Raises `UserError` where it cannot be used."""
    engine = _engine(url)
    try:
        _migrate(engine)
        yield engine
    except (SQLAlchemyError, CommandError) as error:
        raise _unusable(url, error) from error
    finally:
        engine.dispose()


def shown(url: str) -> str:
    """A store's URL as it may be printed: without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url  # no URL at all, so no password in it


def of_later_release(url: str) -> UserError:
    """The error of a store that holds what this release cannot read."""
    return UserError(f"profile store {shown(url)}: holds records of a later release; name another one with --store")


def write_json(profile: Profile, path: Path) -> None:
    """Write a profile to a JSON file."""
    write_atomic(path, profile.model_dump_json(indent=1) + "\n")


def read_json(path: Path) -> Profile:
    """The profile in a JSON file; raises `UserError` where it is missing or holds something else."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of profile records; make one with `handheld profile --json FILE`")
    try:
        content = parse_json(read_text(path, MAX_JSON_BYTES))
        if isinstance(content, list):  # the first release wrote its records alone
            content = {"records": content}
        records = [upgraded(item) for item in content["records"]]
        return Profile.model_validate({**content, "records": records})
    except (ValueError, TypeError, AttributeError, KeyError, ValidationError) as error:
        raise UserError(f"{path}: not a file of profile records") from error


def write_lines(records: Sequence[ProfileRecord], path: Path) -> None:
    """Write records to a file of JSON lines, each with the version of the line's format."""
    lines = [
        json.dumps({"profile_line": LINE_VERSION, "record": record.model_dump(mode="json")}, ensure_ascii=False) + "\n"
        for record in records
    ]
    write_atomic(path, "".join(lines))


def read_lines(path: Path) -> list[ProfileRecord]:
    """The records of a file of JSON lines, of this release or an earlier one.

    Raises `UserError` where the file is missing, and with the number of the first line that is something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; make one with `handheld profiles export FILE.jsonl`")
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            found.append(_line(line, f"{path}, line {number}"))
    return found


def _line(line: bytes, where: str) -> ProfileRecord:
    try:
        content = parse_json(line.decode("utf-8"))
        version, record = content["profile_line"], upgraded(content["record"])
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{where}: no profile record; the file is damaged, or something else") from error
    try:
        if version != LINE_VERSION:
            raise ValueError(version)
        return ProfileRecord.model_validate(record)
    except ValueError as error:
        raise UserError(f"{where}: not a record of this release; bring it in with a later one") from error


def _record(content: dict[str, Any], url: str) -> ProfileRecord:
    try:
        return ProfileRecord.model_validate(upgraded(content))
    except ValidationError as error:
        raise of_later_release(url) from error


def _key(record: ProfileRecord) -> tuple[str | int, ...]:
    """What tells a record from all others."""
    named = record.place, record.bundle, record.role, record.target, record.runtime
    return record.session, *named, str(record.unit), record.artifact_sha256


def _engine(url: str) -> Engine:
    try:
        engine = create_engine(url, connect_args=_bounds(make_url(url)), pool_pre_ping=True)
    except ModuleNotFoundError as error:
        if not url.startswith("postgresql"):
            raise _unusable(url, error) from error
        raise UserError(
            f"profile store {shown(url)}: {error.name} is not installed; pip install 'handheld[postgres]', and begin "
            "the URL with postgresql+psycopg://"
        ) from error
    except SQLAlchemyError as error:
        raise _unusable(url, error) from error
    if engine.url.drivername.startswith("sqlite") and engine.url.database:
        try:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(url, error) from error
    return engine


def _bounds(url: URL) -> dict[str, Any]:
    """What bounds every wait for a store; what the URL itself says goes before it."""
    if url.get_backend_name() == "sqlite":
        return {} if "timeout" in url.query else {"timeout": LOCK_S}
    if url.drivername != "postgresql+psycopg":
        return {}
    options = f"-c statement_timeout={LOCK_S}s {url.query.get('options', '')}"  # the last one counts
    bounds = {"connect_timeout": CONNECT_S, **KEPT_ALIVE}
    return {name: value for name, value in bounds.items() if name not in url.query} | {"options": options.strip()}


def _lock(connection: Connection, number: int) -> None:
    """Let nobody else who takes this lock go on before the transaction that begins here has ended; at most `LOCK_S`."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({number})"))
    elif connection.dialect.name == "sqlite":
        # of its own accord Python begins before a change of rows only: not to read, nor to change tables
        connection.execute(text("BEGIN IMMEDIATE"))


def _unusable(url: str, error: Exception) -> UserError:
    reason = " ".join(str(error).splitlines()[:1])[:160]
    return UserError(
        f"profile store {shown(url)}: cannot be used ({reason}); name a writable one with --store or HANDHELD_STORE"
    )


def row_of(record: ProfileRecord) -> ProfileRow:
    """What the store keeps of a record: it whole, and what queries ask for, names cut where columns end."""
    return ProfileRow(
        created=record.created,
        session=record.session,
        bundle=record.bundle[:NAME],
        target=record.target,
        device=record.device.name[:NAME],
        artifact_sha256=record.artifact_sha256,
        p50_ms=record.latency.p50,
        record=record.model_dump(mode="json"),
    )


def _migrate(engine: Engine) -> None:
    """Run the migrations that the store has not seen, all or none; one at a time where several open it at once."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    newest = ScriptDirectory.from_config(config).get_current_head()
    with engine.connect() as connection:
        if MigrationContext.configure(connection).get_current_revision() == newest:
            return
    with _MIGRATING, engine.begin() as connection:  # alembic's own state is one for all threads
        _lock(connection, LOCK)
        if MigrationContext.configure(connection).get_current_revision() != newest:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
