"""How stores of earlier releases become those of this one; alembic runs what is here."""
