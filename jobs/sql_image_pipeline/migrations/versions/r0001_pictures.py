"""Pictures, labels, model versions, predictions and what users ask."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, ForeignKey

from jobs.sql_image_pipeline.schema import MEDIUM, NUMBER, Moment, exact

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "labels",
        Column("id", sa.Integer, primary_key=True),
        Column("name", exact(64), nullable=False),
        sa.UniqueConstraint("name", name="uq_labels_name"),
        sa.CheckConstraint("name <> ''", name="ck_labels_named"),
    )
    images()
    op.create_table(
        "contents",
        Column(
            "sha256", exact(64),
            ForeignKey("images.sha256", name="fk_contents_sha256", ondelete="CASCADE"),
            primary_key=True,
        ),
        Column("content", MEDIUM, nullable=False),
    )  # fmt: skip
    op.create_table(
        "model_versions",
        Column("id", sa.Integer, primary_key=True),
        Column("digest", exact(64), nullable=False),
        Column("architecture", exact(64), nullable=False),
        Column("accuracy", sa.Double),
        Column("created_at", Moment, nullable=False),
        sa.UniqueConstraint("digest", name="uq_model_versions_digest"),
        sa.CheckConstraint(
            "accuracy IS NULL OR (accuracy >= 0 AND accuracy <= 1)",
            name="ck_model_versions_accuracy",
        ),
    )
    predictions()
    op.create_table(
        "user_queries",
        Column("id", NUMBER, primary_key=True),
        Column("name", exact(32), nullable=False),
        Column("parameters", sa.Text, nullable=False),
        Column("answered", sa.Integer, nullable=False),
        Column("milliseconds", sa.Double, nullable=False),
        Column("created_at", Moment, nullable=False),
    )
    op.create_index("ix_user_queries_created_at", "user_queries", ["created_at"])


def images() -> None:
    """Make the table of pictures and its indexes."""
    op.create_table(
        "images",
        Column("id", NUMBER, primary_key=True),
        Column("sha256", exact(64), nullable=False),
        Column("label_id", sa.Integer, ForeignKey("labels.id", name="fk_images_label_id")),
        Column("collection", exact(64), nullable=False),
        Column("split", exact(8), nullable=False),
        Column("media_type", exact(32), nullable=False),
        Column("width", sa.Integer, nullable=False),
        Column("height", sa.Integer, nullable=False),
        Column("size_bytes", sa.Integer, nullable=False),
        Column("created_at", Moment, nullable=False),
        sa.UniqueConstraint("sha256", name="uq_images_sha256"),
        sa.CheckConstraint("width > 0 AND height > 0", name="ck_images_size"),
        sa.CheckConstraint("size_bytes > 0", name="ck_images_bytes"),
        sa.CheckConstraint("split IN ('train', 'test', 'new')", name="ck_images_split"),
        sa.CheckConstraint("length(sha256) = 64", name="ck_images_sha256"),
    )
    op.create_index("ix_images_collection", "images", ["collection", "split"])
    op.create_index("ix_images_label_id", "images", ["label_id"])


def predictions() -> None:
    """Make the table of predictions, and an index for each question that is asked of it."""
    op.create_table(
        "predictions",
        Column("id", NUMBER, primary_key=True),
        Column(
            "image_id", NUMBER,
            ForeignKey("images.id", name="fk_predictions_image_id"), nullable=False,
        ),
        Column(
            "model_version_id", sa.Integer,
            ForeignKey("model_versions.id", name="fk_predictions_model_version_id"),
            nullable=False,
        ),
        Column(
            "label_id", sa.Integer,
            ForeignKey("labels.id", name="fk_predictions_label_id"), nullable=False,
        ),
        Column("confidence", sa.Double, nullable=False),
        Column("reviewed", sa.Boolean, server_default=sa.false(), nullable=False),
        Column("created_at", Moment, nullable=False),
        sa.UniqueConstraint(
            "image_id", "model_version_id", name="uq_predictions_image_id_model_version_id"
        ),
        sa.CheckConstraint(
            "confidence >= 0 AND confidence <= 1", name="ck_predictions_confidence"
        ),
    )  # fmt: skip
    recent, uncertain = ["label_id", "created_at", "id"], ["reviewed", "confidence", "id"]
    op.create_index("ix_predictions_recent", "predictions", recent)
    op.create_index("ix_predictions_uncertain", "predictions", uncertain)
    op.create_index("ix_predictions_created_at", "predictions", ["created_at"])
    op.create_index("ix_predictions_version", "predictions", ["model_version_id"])


def downgrade() -> None:
    """Drop the tables; `database.downgrade` has seen that there is no picture in them."""
    for table in ("user_queries", "predictions", "model_versions", "contents", "images", "labels"):
        op.drop_table(table)
