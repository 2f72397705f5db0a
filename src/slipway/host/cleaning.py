"""Remove what we made and can make again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.errors import SlipwayError
from slipway.host.build import image_name, our_images
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient

# What a job's images are called after its name.
ENDS = ("", "-test", "-bench", "-demo", ":cuda", "-test:cuda")


def remove_images(client: DockerClient, specs: Sequence[JobSpec], bases: bool) -> None:
    """Remove the jobs' images with their tests', and with ``bases`` every image of ours."""
    from docker.errors import APIError

    wanted = {image_name(f"{spec.name}{end}") for spec in specs for end in ENDS}
    for name in our_images(client):
        if bases or name in wanted:
            try:
                client.images.remove(name)
            except APIError as error:
                raise SlipwayError(f"{name} cannot be removed: {error.explanation}") from None
            click.echo(f"removed {name}")


def remove_artifacts(root: Path, specs: Sequence[JobSpec]) -> None:
    """Remove what the jobs wrote to ``artifacts/``."""
    for spec in specs:
        folder = root / "artifacts" / spec.name
        if folder.exists():
            shutil.rmtree(folder)
            click.echo(f"removed {folder}")
