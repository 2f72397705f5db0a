# A job's image + pytest: runs the job's own tests where it will run; the context is the
# repository's root. Coverage data goes to /artifacts.
#
#     docker build -f images/test.Dockerfile --build-arg IMAGE=slipway/NAME -t slipway/NAME-test .
#     docker run --rm -v "$PWD/artifacts/NAME:/artifacts" slipway/NAME-test
ARG IMAGE
ARG BUILD=slipway/build
FROM ${BUILD} AS build
FROM ${IMAGE}
USER 0
RUN --mount=type=bind,from=build,target=/build \
    --mount=type=bind,source=images/pytest.txt,target=/pytest.txt \
    --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=ca \
    /build/install /pytest.txt
COPY pyproject.toml /srv/pyproject.toml
USER 1000:0
ENV COVERAGE_FILE=/artifacts/.coverage
ENTRYPOINT ["/opt/venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider"]
CMD ["--cov", "--cov-report=", "jobs"]
