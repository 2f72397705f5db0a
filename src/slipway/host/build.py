"""Build images with the docker command line, and only those whose sources changed.

An image carries the digest of its sources as a label; equal digests mean nothing to do. Bases
are built first, and Debian itself where no registry gives it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.errors import DataUnavailable, SlipwayError
from slipway.host import sources
from slipway.host.engine import docker_command
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

DEBIAN = "debian:bookworm-slim"
SOURCE = "dev.slipway.source"
# What must be there before an image is built; the rest is inside one Dockerfile.
PARENTS: dict[str, list[str]] = {
    "base": [],
    "build": [],
    "cuda": ["libraries", "base", "build"],
    "libraries": [],
    "service": [],
    "torch": [],
}
MEGABYTE = 10**6
STDERR = 2  # what a build says is no result
# Where PyTorch publishes wheels without CUDA.
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# Uncompressed bytes an image may hold.
BUDGETS: dict[str, float] = {
    "base": 800 * MEGABYTE,
    "torch": 1400 * MEGABYTE,
    "cuda": 5500 * MEGABYTE,
    "demo": 400 * MEGABYTE,
    "mariadb": 300 * MEGABYTE,
    "mlflow": 750 * MEGABYTE,
    "postgres": 250 * MEGABYTE,
    "prometheus": 160 * MEGABYTE,
}


class BuildFailed(SlipwayError):
    """The docker command could not build an image."""


def image_name(name: str, gpu: bool = False) -> str:
    """Return an image's name; a GPU build of a job is a tag of its own beside the usual one."""
    return f"{os.environ.get('SLIPWAY_IMAGES', 'slipway')}/{name}{':cuda' if gpu else ''}"


def base_of(spec: JobSpec, gpu: bool) -> str:
    """Return the base a job is built on."""
    return "cuda" if gpu else spec.base


def build_job(client: DockerClient, root: Path, spec: JobSpec, gpu: bool = False) -> Image:
    """Return the job's image, built with its bases where they are absent or stale."""
    gpu = gpu and spec.base != "cuda"
    base = base_of(spec, gpu)
    name, source = image_name(spec.name, gpu), sources.job_source(root, spec, base)
    fresh = _fresh(client, name, source)
    if fresh:
        return fresh
    parent = build_base(client, root, base)
    arguments = _arg("BASE", base)
    if (spec.folder / "requirements.txt").is_file():
        build_base(client, root, "build")
        arguments += _arg("BUILD", "build")
    commit, dirty = sources.commit_of(root)
    build = {"commit": commit, "dirty": dirty, "source": source}
    build["built_from"] = f"{image_name(base)}@{parent.id}"
    context = sources.job_context(spec, build)
    labels = {SOURCE: source, **job_labels(root, spec, base, commit)}
    return _build(client, root, name, labels, [*arguments, "-"], context)


def build_test(client: DockerClient, root: Path, spec: JobSpec, gpu: bool = False) -> Image:
    """Return the job's image with pytest and coverage on top."""
    return _build_on(client, root, spec, "test", ["images/pytest.txt", "pyproject.toml"], gpu)


def build_bench(client: DockerClient, root: Path, spec: JobSpec) -> Image:
    """Return the job's image with other servers, batch engines and a load generator on top."""
    locks = ["images/bench.txt", "images/bench-apart.txt", "images/install"]
    return _build_on(client, root, spec, "bench", locks)


def _build_on(
    client: DockerClient,
    root: Path,
    spec: JobSpec,
    kind: str,
    parts: Sequence[str],
    gpu: bool = False,
) -> Image:
    """Return ``JOB-KIND``: the job's image with what ``images/KIND.Dockerfile`` puts on top."""
    parent = build_job(client, root, spec, gpu)
    recipe = root / "images" / f"{kind}.Dockerfile"
    files = [recipe, *(root / part for part in parts)]
    name = image_name(f"{spec.name}-{kind}", gpu)
    source = sources.digest(root, files, str(parent.id))
    fresh = _fresh(client, name, source)
    if fresh:
        return fresh
    build_base(client, root, "build")
    image = _arg("IMAGE", spec.name, gpu)
    arguments = ["--file", str(recipe), *image, *_arg("BUILD", "build"), "."]
    return _build(client, root, name, {SOURCE: source}, arguments)


def build_base(client: DockerClient, root: Path, base: str) -> Image:
    """Return one of our base images, built with what it stands on where stale."""
    name, source = image_name(base), sources.base_source(root, base)
    fresh = _fresh(client, name, source)
    if fresh:
        return fresh
    for parent in PARENTS[base]:
        build_base(client, root, parent)
    ensure_debian(client, root)
    if base == "torch":
        ensure_torch_wheel(root)
    if base == "cuda":
        parents = [_arg(parent.upper(), parent) for parent in PARENTS[base]]
        arguments = ["--file", "Dockerfile.cuda", *itertools.chain(*parents)]
    else:
        arguments = ["--file", "Dockerfile.base", "--target", base]
    commit, _ = sources.commit_of(root)
    labels = {SOURCE: source, **_image_labels(root, f"slipway {base}", "", commit)}
    return _build(client, root, name, labels, [*arguments, "."])


def build_service(client: DockerClient, root: Path, service: str) -> Image:
    """Return a helper service's image, built with what it stands on where stale."""
    name, source = image_name(service), sources.service_source(root, service)
    fresh = _fresh(client, name, source)
    if fresh:
        return fresh
    ensure_debian(client, root)
    arguments = ["--file", f"images/{service}/Dockerfile"]
    if sources.SERVICES.get(service):  # it stands on ours, not on Debian itself
        build_base(client, root, "build")
        build_base(client, root, "service")
        arguments += [*_arg("BASE", "service"), *_arg("BUILD", "build")]
    commit, _ = sources.commit_of(root)
    labels = {SOURCE: source, **_image_labels(root, f"slipway {service}", "", commit)}
    return _build(client, root, name, labels, [*arguments, "."])


def build_page(client: DockerClient, root: Path, spec: JobSpec) -> Image:
    """Return the image of a job's demo page: the one it brings in ``demo/``, else everyone's."""
    recipe = spec.folder / sources.PAGE / "Dockerfile"
    if not recipe.is_file():
        return build_service(client, root, "demo")
    named = re.search(r"^ARG BASE=slipway/(\w+)$", recipe.read_text("utf-8"), re.M)
    if not named:
        raise BuildFailed(f"{recipe}: wanted a line ARG BASE=slipway/demo, or another of ours")
    base = named[1]
    parent = (build_service if base in sources.SERVICES else build_base)(client, root, base)
    name = image_name(f"{spec.name}-demo")
    source = sources.page_source(root, spec, str(parent.id))
    fresh = _fresh(client, name, source)
    if fresh:
        return fresh
    build_base(client, root, "build")
    arguments = [*_arg("BASE", base), *_arg("BUILD", "build"), "-"]
    commit, _ = sources.commit_of(root)
    labels = {SOURCE: source, **_image_labels(root, f"{spec.title}: demo", spec.question, commit)}
    return _build(client, root, name, labels, arguments, sources.page_context(spec))


def _arg(variable: str, name: str, gpu: bool = False) -> list[str]:
    return ["--build-arg", f"{variable}={image_name(name, gpu)}"]


def _fresh(client: DockerClient, name: str, source: str) -> Image | None:
    """Return the image when it is there and made from these sources."""
    from docker.errors import ImageNotFound

    try:
        image = client.images.get(name)
    except ImageNotFound:
        return None
    return image if image.labels.get(SOURCE) == source else None


def _build(
    client: DockerClient,
    root: Path,
    name: str,
    labels: Mapping[str, str],
    arguments: Sequence[str],
    context: bytes | None = None,
) -> Image:
    """Run ``docker build``, its output on stderr; ``context`` is a tar for its stdin."""
    click.echo(f"building {name}", err=True)
    command = [docker_command(), "build", "--tag", name, *_secrets()]
    for key, value in labels.items():
        command += ["--label", f"{key}={value}"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=root,
        input=context,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdout=STDERR,
        check=False,
    )
    if done.returncode:
        raise BuildFailed(
            f"docker build of {name} ended with {done.returncode}; its output is above"
        )
    image = client.images.get(name)
    click.echo(size_line(name, image.attrs["Size"]), err=True)
    return image


def certificate() -> Path | None:
    """Return the company's CA bundle: the first of three variables that names a file."""
    for variable in ("SLIPWAY_CA", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path and Path(path).is_file():
            return Path(path)
    return None


def _secrets() -> list[str]:
    path = certificate()
    return ["--secret", f"id=ca,src={path}"] if path else []


def ensure_debian(client: DockerClient, root: Path) -> None:
    """Have ``debian:bookworm-slim``: pulled, or made from Debian's packages, said aloud."""
    from docker.errors import APIError, ImageNotFound

    try:
        client.images.get(DEBIAN)
        return
    except ImageNotFound:
        click.echo(f"pulling {DEBIAN}", err=True)
    try:
        client.images.pull(DEBIAN)
    except APIError as error:
        click.echo(f"cannot pull {DEBIAN}: {error.explanation or error}", err=True)
        click.echo("making it from Debian's packages instead: images/debian/build", err=True)
        path = f"{Path(docker_command()).parent}{os.pathsep}{os.environ['PATH']}"
        made = subprocess.run(
            [str(root / "images" / "debian" / "build")],
            env={**os.environ, "PATH": path},
            stdout=STDERR,
            check=False,
        )
        if made.returncode:
            raise DataUnavailable(
                f"no {DEBIAN}: neither a registry nor images/debian/build gave it"
            ) from None


def ensure_torch_wheel(root: Path) -> None:
    """Have PyTorch's CPU wheel in ``wheelhouse/``, where the build looks first."""
    house = root / "wheelhouse"
    if any(house.glob("torch-*.whl")):
        return
    found = re.search(r"^torch==(\S+)", (root / "images" / "torch.txt").read_text("utf-8"), re.M)
    wanted = found[0] if found else "torch"
    click.echo(f"wheelhouse/ has no torch wheel: downloading {wanted}", err=True)
    index = ["--extra-index-url", os.environ.get("TORCH_INDEX", TORCH_INDEX)]
    if not (_download(house, [wanted]) or _download(house, [*index, wanted])):
        raise DataUnavailable(f"{wanted} cannot be downloaded; put its wheel into wheelhouse/")


def _download(house: Path, arguments: Sequence[str]) -> bool:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(house)]
    target = ["--only-binary", ":all:", "--python-version", "3.11", *arguments]
    done = subprocess.run([*command, *target], capture_output=True, text=True, check=False)
    if done.returncode:
        click.echo(done.stderr.strip(), err=True)
    return done.returncode == 0


def job_labels(root: Path, spec: JobSpec, base: str, commit: str) -> dict[str, str]:
    """Return the OCI and Slipway labels that repeat ``job.toml`` on the image."""
    needs = spec.resources
    return {
        **_image_labels(root, spec.title, spec.question, commit),
        "org.opencontainers.image.base.name": image_name(base),
        "dev.slipway.job": spec.name,
        "dev.slipway.base": base,
        "dev.slipway.memory": needs.memory,
        "dev.slipway.cpus": f"{needs.cpus:g}",
        "dev.slipway.gpus": f"{needs.gpus:g}",
        "dev.slipway.minutes": f"{needs.minutes:g}",
    }


def _image_labels(root: Path, title: str, description: str, commit: str) -> dict[str, str]:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    labels = {
        "title": title,
        "description": description or project["description"],
        "version": project["version"],
        "revision": commit,
        "licenses": project["license"],
        "source": project.get("urls", {}).get("Source", ""),
    }
    return {f"org.opencontainers.image.{key}": text for key, text in labels.items() if text}


def budget_of(name: str) -> float:
    """Return the most bytes an image may hold."""
    return BUDGETS.get(name.rpartition("/")[2], float("inf"))


def size_line(name: str, size: int) -> str:
    """Say how large an image is, and its budget where it has one."""
    budget = budget_of(name)
    within = f" of {budget / MEGABYTE:.0f} MB" if budget < float("inf") else ""
    over = ", OVER BUDGET" if size > budget else ""
    return f"{name}: {size / MEGABYTE:.0f} MB{within}{over}"


def our_images(client: DockerClient) -> dict[str, int]:
    """Return the uncompressed bytes of each of our images, by name, sorted."""
    sizes = {}
    for image in client.images.list(filters={"label": SOURCE}):
        for tag in image.tags:
            name = tag.removesuffix(":latest")
            if name.startswith(image_name("")):
                sizes[name] = image.attrs["Size"]
    return dict(sorted(sizes.items()))


def record_sizes(sizes: Mapping[str, int], path: Path) -> None:
    """Write every image's megabytes to ``path``."""
    short = {name.rpartition("/")[2]: round(size / MEGABYTE) for name, size in sizes.items()}
    path.write_text(json.dumps(short, indent=1) + "\n", "utf-8")
