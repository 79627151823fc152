"""Where profile records are kept: a SQLite file by default, any SQLAlchemy URL for a team."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_data_path
from pydantic import ValidationError
from sqlalchemy import JSON, Engine, String, create_engine, make_url, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from devices.records import ProfileRecord
from toolkit.errors import UserError
from toolkit.files import write_atomic


class _Base(DeclarativeBase):
    pass


class _Row(_Base):
    __tablename__ = "profiles"

    id: Mapped[int] = mapped_column(primary_key=True)
    created: Mapped[str] = mapped_column(String(40), index=True)
    session: Mapped[str] = mapped_column(String(32), index=True)
    bundle: Mapped[str] = mapped_column(String(200), index=True)
    target: Mapped[str] = mapped_column(String(80), index=True)
    device: Mapped[str] = mapped_column(String(200), index=True)
    artifact_sha256: Mapped[str] = mapped_column(String(64))
    p50_ms: Mapped[float]
    record: Mapped[dict[str, object]] = mapped_column(JSON)


def default_url() -> str:
    """`profiles.db` in the user's data folder."""
    return f"sqlite:///{user_data_path('handheld') / 'profiles.db'}"


def check_writable(url: str | None = None) -> None:
    """Raise `UserError` where the store could not take records; creates it where it is not there yet."""
    add([], url)


def add(records: Sequence[ProfileRecord], url: str | None = None) -> str:
    """Keep records, all or none; returns the store's URL. Raises `UserError` where the store cannot be written."""
    url = url or default_url()
    engine = _open(url)
    try:
        _Base.metadata.create_all(engine)
        with Session(engine) as session, session.begin():
            session.add_all(_row(record) for record in records)
    except SQLAlchemyError as error:
        raise _unusable(url, error) from error
    finally:
        engine.dispose()
    return url


def load(url: str | None = None, bundle: str | None = None) -> list[ProfileRecord]:
    """Records in the order in which they were made, of one bundle's name if given."""
    url = url or default_url()
    engine = _open(url)
    query = select(_Row).order_by(_Row.id)
    if bundle is not None:
        query = query.where(_Row.bundle == bundle)
    try:
        _Base.metadata.create_all(engine)
        with Session(engine) as session:
            return [ProfileRecord.model_validate(row.record) for row in session.scalars(query)]
    except SQLAlchemyError as error:
        raise _unusable(url, error) from error
    except ValidationError as error:
        raise UserError(
            f"profile store {shown(url)}: holds records of another release; name another one with --store"
        ) from error
    finally:
        engine.dispose()


def shown(url: str) -> str:
    """A store's URL as it may be printed: without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url  # no URL at all, so no password in it


def write_json(records: Sequence[ProfileRecord], path: Path) -> None:
    """Write records to a JSON file."""
    write_atomic(path, json.dumps([record.model_dump(mode="json") for record in records], indent=1) + "\n")


def read_json(path: Path) -> list[ProfileRecord]:
    """Records of a JSON file; raises `UserError` where it is missing or holds something else."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of profile records; make one with `handheld profile --json FILE`")
    try:
        return [ProfileRecord.model_validate(item) for item in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, ValidationError) as error:
        raise UserError(f"{path}: not a file of profile records") from error


def _open(url: str) -> Engine:
    try:
        engine = create_engine(url)
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        raise _unusable(url, error) from error
    if engine.url.drivername.startswith("sqlite") and engine.url.database:
        try:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(url, error) from error
    return engine


def _unusable(url: str, error: Exception) -> UserError:
    reason = " ".join(str(error).splitlines()[:1])[:160]
    return UserError(
        f"profile store {shown(url)}: cannot be used ({reason}); name a writable one with --store or HANDHELD_STORE"
    )


def _row(record: ProfileRecord) -> _Row:
    return _Row(
        created=record.created,
        session=record.session,
        bundle=record.bundle,
        target=record.target,
        device=record.device.name,
        artifact_sha256=record.artifact_sha256,
        p50_ms=record.latency.p50,
        record=record.model_dump(mode="json"),
    )
