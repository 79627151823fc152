"""What a measuring session has found so far, kept in the store event by event."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine, orm, select

from devices import store
from devices.records import Failure
from devices.sessions import Event, Plan, Session, Watch
from devices.tables import EventRow, SessionRow

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Journal:
    """The sessions of a store: a SQLAlchemy URL, or None for the user's own.

    `watch` looks on at all of them; once `stop` was called, each ends with its next event.
    """

    def __init__(self, url: str | None = None, watch: Watch | None = None) -> None:
        self.url, self._watch = url or store.default_url(), watch
        self._stop = threading.Event()

    def stop(self) -> None:
        """End all sessions under way, in whatever thread; what they have is in the store."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @contextmanager
    def session(self, plan: Plan, resume: bool = False, leave: Collection[str] = ()) -> Iterator[Session]:
        """A session of `plan`, whose events are in the store before anything follows them.

        With `resume`, it is the last unfinished session that asked for the same, has a candidate left and is none of
        those to `leave`, by their ids, if there is one. At the end of the block its records are kept and it counts as
        finished; where the block raises, it waits to be resumed. Raises `UserError` where the store cannot be used.
        """
        with store.opened(self.url) as engine:
            session = self._unfinished(engine, plan, leave) if resume else None
            if session is None:
                session = self._new(engine, plan)
                if resume:
                    session.say("no unfinished session asked for the same of a device in this state: a new one begins")
            yield session
            records = session.profile().records
            with orm.Session(engine) as database, database.begin():
                database.add_all(store.row_of(record) for record in records)
                row = database.get(SessionRow, session.plan.session)
                assert row is not None
                row.finished = True

    def failures(self) -> list[Failure]:
        """The candidates of all sessions, finished or not, that could not be measured; the oldest session first.

        Raises `UserError` where the store cannot be used, or is a later release's.
        """
        query = (
            select(SessionRow.plan, EventRow.event)
            .join(EventRow, EventRow.session == SessionRow.id)
            .where(EventRow.event["kind"].as_string() == "failed")
            .order_by(SessionRow.created, EventRow.id)
        )
        sessions: dict[str, Session] = {}
        with store.opened(self.url) as engine, orm.Session(engine) as database:
            rows = database.execute(query).all()
        try:
            for plan, event in rows:
                kept = Plan.model_validate(plan)
                sessions.setdefault(kept.session, Session(kept)).events.append(_EVENT.validate_python(event))
        except ValidationError as error:
            raise store.of_later_release(self.url) from error
        return [failure for session in sessions.values() for failure in session.failures()]

    def _new(self, engine: Engine, plan: Plan) -> Session:
        with orm.Session(engine) as database, database.begin():
            database.add(
                SessionRow(
                    id=plan.session,
                    created=plan.created,
                    fingerprint=plan.fingerprint,
                    finished=False,
                    plan=plan.model_dump(mode="json"),
                )
            )
        return self._kept(engine, plan, [])

    def _unfinished(self, engine: Engine, plan: Plan, leave: Collection[str]) -> Session | None:
        asked = select(SessionRow).where(
            SessionRow.fingerprint == plan.fingerprint, SessionRow.finished.is_(False), SessionRow.id.not_in(leave)
        )
        with orm.Session(engine) as database:
            rows = database.scalars(asked.order_by(SessionRow.created.desc())).all()
            for row in rows:
                query = select(EventRow.event).where(EventRow.session == row.id).order_by(EventRow.id)
                try:
                    events = [_EVENT.validate_python(event) for event in database.scalars(query)]
                    kept = Plan.model_validate(row.plan)
                except ValidationError as error:
                    raise store.of_later_release(self.url) from error
                if not Session(kept, events).hopeless:
                    return self._kept(engine, kept, events)
        return None

    def _kept(self, engine: Engine, plan: Plan, events: list[Event]) -> Session:
        def keep(event: Event) -> None:
            with orm.Session(engine) as database, database.begin():
                database.add(EventRow(session=plan.session, event=event.model_dump(mode="json")))

        return Session(plan, events, keep, self._watch, self._stop)
