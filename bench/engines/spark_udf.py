"""PySpark on this machine's cores: a pandas UDF that keeps the model in each worker."""

import sys
from collections.abc import Iterator
from typing import Any

import pandas
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf, struct

from bench import work


def main() -> None:
    """Score INPUT into the folder OUTPUT."""
    source, target = sys.argv[1:]
    spark = (
        SparkSession.builder.master(f"local[{work.WORKERS}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", "1g")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "20000")
        .getOrCreate()
    )
    subject = work.load()
    answer = list(subject.columns(work_rows(subject)))
    kinds = ", ".join(f"{name} {'double' if name == 'propensity' else 'string'}" for name in answer)

    @pandas_udf(kinds)  # type: ignore[call-overload, misc]
    def score(parts: Iterator[pandas.DataFrame]) -> Iterator[pandas.DataFrame]:
        held = work.load()
        for frame in parts:
            found = held.columns(frame.to_dict("records"))
            yield pandas.DataFrame({k: shown(v) for k, v in found.items()})

    jsonl = source.endswith(".jsonl")
    rows = spark.read.json(source) if jsonl else spark.read.parquet(source)
    fields = [rows[name] for name in subject.job.row.model_fields]
    kept = [rows[name] for name in rows.columns if name not in subject.job.row.model_fields]
    found = rows.select(*kept, score(struct(*fields)).alias("found")).select(*kept, "found.*")
    found.write.json(target) if jsonl else found.write.parquet(target)
    spark.stop()


def work_rows(subject: work.Work) -> list[dict[str, Any]]:
    """Return one row, to learn the names of the answer's columns."""
    from slipway.types import example

    return [example(subject.job.row)]


def shown(values: list[Any]) -> list[Any]:
    """Return numbers as they are and all else as text."""
    return values if values and isinstance(values[0], float) else [str(v) for v in values]


if __name__ == "__main__":
    main()
