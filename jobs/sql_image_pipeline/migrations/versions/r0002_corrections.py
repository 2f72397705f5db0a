"""What persons corrected. On the way down the rows are kept aside, and come back on the way up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, ForeignKey

from jobs.sql_image_pipeline.schema import NUMBER, Moment

revision = "0002"
down_revision = "0001"
TABLE, ASIDE = "corrections", "corrections_kept"


def upgrade() -> None:
    """Make the table, or take back the one that was kept."""
    if sa.inspect(op.get_bind()).has_table(ASIDE):
        op.rename_table(ASIDE, TABLE)
        return
    op.create_table(
        TABLE,
        Column("id", NUMBER, primary_key=True),
        Column(
            "image_id", NUMBER,
            ForeignKey("images.id", name="fk_corrections_image_id"), nullable=False,
        ),
        Column("before_id", sa.Integer, ForeignKey("labels.id", name="fk_corrections_before_id")),
        Column(
            "label_id", sa.Integer,
            ForeignKey("labels.id", name="fk_corrections_label_id"), nullable=False,
        ),
        Column("created_at", Moment, nullable=False),
    )  # fmt: skip
    op.create_index("ix_corrections_image_id", TABLE, ["image_id"])


def downgrade() -> None:
    """Keep what persons did under another name; drop a table that nothing is in."""
    empty = not op.get_bind().execute(sa.text(f"SELECT 1 FROM {TABLE} LIMIT 1")).first()
    if empty:
        op.drop_table(TABLE)
    else:
        op.rename_table(TABLE, ASIDE)
