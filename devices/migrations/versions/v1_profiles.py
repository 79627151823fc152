"""Finished records."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("profiles"):
        return  # the first release made its tables without migrations
    op.create_table(
        "profiles",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created", sa.String(40), nullable=False, index=True),
        sa.Column("session", sa.String(32), nullable=False, index=True),
        sa.Column("bundle", sa.String(200), nullable=False, index=True),
        sa.Column("target", sa.String(80), nullable=False, index=True),
        sa.Column("device", sa.String(200), nullable=False, index=True),
        sa.Column("artifact_sha256", sa.String(64), nullable=False),
        sa.Column("p50_ms", sa.Double, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
    )
