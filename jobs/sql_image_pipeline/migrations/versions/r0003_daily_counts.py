"""Sums of the predictions by day, model version and label; made anew from them on the way up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, ForeignKey

from jobs.sql_image_pipeline.statements import statement

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table and count."""
    op.create_table(
        "daily_counts",
        Column("day", sa.Date, primary_key=True),
        Column(
            "model_version_id", sa.Integer,
            ForeignKey("model_versions.id", name="fk_daily_counts_model_version_id"),
            primary_key=True,
        ),
        Column(
            "label_id", sa.Integer,
            ForeignKey("labels.id", name="fk_daily_counts_label_id"), primary_key=True,
        ),
        Column("predictions", sa.Integer, nullable=False),
        Column("labelled", sa.Integer, nullable=False),
        Column("correct", sa.Integer, nullable=False),
        Column("confidence_sum", sa.Double, nullable=False),
        Column("confidence_squares", sa.Double, nullable=False),
        sa.CheckConstraint(
            "correct <= labelled AND labelled <= predictions", name="ck_daily_counts_parts"
        ),
    )  # fmt: skip
    op.get_bind().execute(sa.text(statement("recount")))


def downgrade() -> None:
    """Drop sums that can be made anew."""
    op.drop_table("daily_counts")
