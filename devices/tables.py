"""The tables of the profile store. A change here needs a migration in `devices/migrations/versions`."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class ProfileRow(Base):
    """A finished record, with the columns that queries ask for."""

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


class SessionRow(Base):
    """A session's plan, and whether it came to its end."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created: Mapped[str] = mapped_column(String(40), index=True)
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    finished: Mapped[bool] = mapped_column(Boolean, default=False)
    plan: Mapped[dict[str, object]] = mapped_column(JSON)


class EventRow(Base):
    """What happened in a session, in the order of the ids."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    session: Mapped[str] = mapped_column(ForeignKey("sessions.id"), index=True)
    event: Mapped[dict[str, object]] = mapped_column(JSON)
