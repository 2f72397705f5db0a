# A job's image + what its server and its file scorer are measured against, and wrk, the load
# generator: `make bench`. The context is the repository's root; bench/ is mounted, not copied.
#
#     docker build -f images/bench.Dockerfile --build-arg IMAGE=slipway/NAME -t slipway/NAME-bench .
ARG IMAGE
ARG BUILD=slipway/build
FROM ${BUILD} AS build
FROM ${IMAGE}
USER 0
# The JRE's package wants to write manual pages, which a slim Debian leaves out. A uid without a
# name is no user for Spark: bench/ gives it one.
RUN mkdir -p /usr/share/man/man1 \
    && apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless procps wrk \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
    && chmod 666 /etc/passwd
RUN --mount=type=bind,from=build,target=/build \
    --mount=type=bind,source=images/bench.txt,target=/bench.txt \
    --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=ca \
    SDISTS=1 /build/install /bench.txt
# BentoML and MLflow refuse versions that base holds: the same scikit-learn, in a place apart.
RUN --mount=type=bind,from=build,target=/build \
    --mount=type=bind,source=images/bench-apart.txt,target=/bench-apart.txt \
    --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=ca \
    /build/usr/local/bin/uv venv --quiet --python /usr/bin/python3 /opt/apart \
    && echo /opt/slipway > /opt/apart/lib/python3.11/site-packages/slipway.pth \
    && /build/install /bench-apart.txt /opt/apart
USER 1000:0
ENV BENTOML_DO_NOT_TRACK=True \
    JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64 \
    RAY_USAGE_STATS_ENABLED=0
ENTRYPOINT ["/opt/venv/bin/python", "-m", "bench"]
