"""The tables as SQLAlchemy models. Imported by functions that need a database.

A picture is known by the sha256 of its file. Its bytes stand in a table of their own beside the
metadata, in the same transaction, so no file can be without its row and no row without its file.
``daily_counts`` is what the predictions add up to by day, kept in the transaction that adds them.

Data:    times are UTC; a confidence is the probability of the label, 0 to 1.
Source:  none.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

MYSQL = ("mysql", "mariadb")
SPLITS = ("train", "test", "new")
"""What a picture may be used for; ``new`` came by upload and belongs to neither yet."""
NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up an INTEGER alone
MEDIUM = LargeBinary().with_variant(mysql.MEDIUMBLOB(), *MYSQL)


def exact(length: int) -> String:
    """Return a text type that tells upper from lower case, as MariaDB's default does not."""
    return String(length).with_variant(mysql.VARCHAR(length, collation="utf8mb4_bin"), *MYSQL)  # type: ignore[return-value]


class Moment(TypeDecorator[datetime]):
    """A time in UTC with microseconds; stores without time zones get it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Ask MariaDB for microseconds."""
        kind = mysql.DATETIME(fsp=6) if dialect.name in MYSQL else DateTime(timezone=True)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time without a zone, which would mean another moment elsewhere."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value}: wanted a time with its zone")
        told = value.astimezone(UTC)
        return told if dialect.name == "postgresql" else told.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """All tables; every constraint has a name that a migration can drop."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Label(Base):
    """What a picture may show."""

    __tablename__ = "labels"
    __table_args__ = (CheckConstraint("name <> ''", name="named"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(exact(64), unique=True)


class Image(Base):
    """One picture. ``label_id`` is what it truly shows, where a person or data set says so."""

    __tablename__ = "images"
    __table_args__ = (
        CheckConstraint("width > 0 AND height > 0", name="size"),
        CheckConstraint("size_bytes > 0", name="bytes"),
        CheckConstraint("split IN ('train', 'test', 'new')", name="split"),
        CheckConstraint("length(sha256) = 64", name="sha256"),
        Index("ix_images_collection", "collection", "split"),
        Index("ix_images_label_id", "label_id"),
    )

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True)
    sha256: Mapped[str] = mapped_column(exact(64), unique=True)
    label_id: Mapped[int | None] = mapped_column(ForeignKey("labels.id"))
    collection: Mapped[str] = mapped_column(exact(64))
    split: Mapped[str] = mapped_column(exact(8))
    media_type: Mapped[str] = mapped_column(exact(32))
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    size_bytes: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Moment)


class Content(Base):
    """The bytes of a picture's file."""

    __tablename__ = "contents"

    sha256: Mapped[str] = mapped_column(
        exact(64), ForeignKey("images.sha256", ondelete="CASCADE"), primary_key=True
    )
    content: Mapped[bytes] = mapped_column(MEDIUM)


class ModelVersion(Base):
    """One trained model, known by the digest of its files."""

    __tablename__ = "model_versions"
    __table_args__ = (
        CheckConstraint("accuracy IS NULL OR (accuracy >= 0 AND accuracy <= 1)", name="accuracy"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str] = mapped_column(exact(64), unique=True)
    architecture: Mapped[str] = mapped_column(exact(64))
    accuracy: Mapped[float | None] = mapped_column(Double)
    created_at: Mapped[datetime] = mapped_column(Moment)


class Prediction(Base):
    """What one model version says of one picture: once, however often the picture is sent."""

    __tablename__ = "predictions"
    __table_args__ = (
        UniqueConstraint("image_id", "model_version_id"),
        CheckConstraint("confidence >= 0 AND confidence <= 1", name="confidence"),
        Index("ix_predictions_recent", "label_id", "created_at", "id"),
        Index("ix_predictions_uncertain", "reviewed", "confidence", "id"),
        Index("ix_predictions_created_at", "created_at"),
        Index("ix_predictions_version", "model_version_id"),
    )

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"))
    label_id: Mapped[int] = mapped_column(ForeignKey("labels.id"))
    confidence: Mapped[float] = mapped_column(Double)
    reviewed: Mapped[bool] = mapped_column(server_default=false())
    created_at: Mapped[datetime] = mapped_column(Moment)


class UserQuery(Base):
    """One question that was asked over HTTP, how many rows it gave and how long it took."""

    __tablename__ = "user_queries"
    __table_args__ = (Index("ix_user_queries_created_at", "created_at"),)

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True)
    name: Mapped[str] = mapped_column(exact(32))
    parameters: Mapped[str] = mapped_column(Text)
    answered: Mapped[int] = mapped_column(Integer)
    milliseconds: Mapped[float] = mapped_column(Double)
    created_at: Mapped[datetime] = mapped_column(Moment)


class Correction(Base):
    """What a person said that a picture shows, and what was believed before."""

    __tablename__ = "corrections"
    __table_args__ = (Index("ix_corrections_image_id", "image_id"),)

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    before_id: Mapped[int | None] = mapped_column(ForeignKey("labels.id"))
    label_id: Mapped[int] = mapped_column(ForeignKey("labels.id"))
    created_at: Mapped[datetime] = mapped_column(Moment)


class DailyCount(Base):
    """Predictions of one day, model version and label: how many, how sure, how many right."""

    __tablename__ = "daily_counts"
    __table_args__ = (
        CheckConstraint("correct <= labelled AND labelled <= predictions", name="parts"),
    )

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    label_id: Mapped[int] = mapped_column(ForeignKey("labels.id"), primary_key=True)
    predictions: Mapped[int] = mapped_column(Integer)
    labelled: Mapped[int] = mapped_column(Integer)
    correct: Mapped[int] = mapped_column(Integer)
    confidence_sum: Mapped[float] = mapped_column(Double)
    confidence_squares: Mapped[float] = mapped_column(Double)
