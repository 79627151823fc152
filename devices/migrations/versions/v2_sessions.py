"""Sessions that can be resumed, and records with repeats."""

import sqlalchemy as sa
from alembic import op

from devices.records import upgraded

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("created", sa.String(40), nullable=False, index=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, index=True),
        sa.Column("finished", sa.Boolean, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("session", sa.String(32), sa.ForeignKey("sessions.id"), nullable=False, index=True),
        sa.Column("event", sa.JSON, nullable=False),
    )
    profiles = sa.table("profiles", sa.column("id", sa.Integer), sa.column("record", sa.JSON))
    connection = op.get_bind()
    for row in connection.execute(sa.select(profiles.c.id, profiles.c.record)).all():
        connection.execute(profiles.update().where(profiles.c.id == row.id).values(record=upgraded(row.record)))
