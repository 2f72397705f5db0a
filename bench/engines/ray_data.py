"""Ray Data's map_batches with one actor a core."""

import sys
from typing import Any

import ray
import ray.data

from bench import work

BATCH = 20_000


class Scorer:
    """An actor that holds the model."""

    def __init__(self) -> None:
        self.subject = work.load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer a batch of columns."""
        names = list(self.subject.job.row.model_fields)
        values = zip(*(batch[name].tolist() for name in names), strict=True)
        rows = [dict(zip(names, row, strict=True)) for row in values]
        kept = {name: batch[name] for name in batch if name not in names}
        return {**kept, **self.subject.columns(rows)}


def main() -> None:
    """Score INPUT into the folder OUTPUT."""
    from bench.engines import ray_data

    source, target = sys.argv[1:]
    # Two slots for each core: with actors on all of them nothing is left to read and write with,
    # and Ray Data waits for ever.
    ray.init(num_cpus=2 * work.WORKERS, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    jsonl = source.endswith(".jsonl")
    rows = ray.data.read_json(source, lines=True) if jsonl else ray.data.read_parquet(source)
    found = rows.map_batches(ray_data.Scorer, batch_size=BATCH, concurrency=work.WORKERS)
    found.write_json(target) if jsonl else found.write_parquet(target)


if __name__ == "__main__":
    main()
