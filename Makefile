# Every target is one line over `slipway`, the host command line in .venv. Variables:
#   JOB=NAME   CMD="train --seed 3"   GPU=1   RUNNER=docker|process   PORT=8080   IN= OUT= (score, batch)
#   DB=postgres|mariadb (run, serve: beside a job that uses one)   SUITE= (bench)   ENGINE=local|ray|...   SHARDS=4 (batch)
.DEFAULT_GOAL := help
.PHONY: help list new build run test check serve score batch submit batches batch-cancel bench demo up down clean hooks locks
SLIPWAY := .venv/bin/slipway
BASE ?= base
ENGINE ?= local
SHARDS ?= 4

list: .venv/stamp  ## list all jobs
	@$(SLIPWAY) list

new: .venv/stamp  ## write a new job: make new JOB=house_price [BASE=torch]
	@$(SLIPWAY) new $(JOB) --base $(BASE)

build: .venv/stamp  ## build one job's image, or all, and print their sizes
	@$(SLIPWAY) build $(JOB)

run: .venv/stamp  ## run a job: make run JOB=NAME [CMD="train --seed 3"]
	@$(SLIPWAY) run $(JOB) $(CMD)

test: .venv/stamp  ## run one job's tests, or all that this machine can
	@$(SLIPWAY) test $(JOB)

check: .venv/stamp  ## hold one job's image, or all, to the container contract
	@$(SLIPWAY) check $(JOB)

serve: .venv/stamp  ## serve a trained job over HTTP: make serve JOB=NAME [PORT=8080]
	@$(SLIPWAY) serve $(JOB)

score: .venv/stamp  ## score a file: make score JOB=NAME IN=rows.jsonl OUT=scores.jsonl
	@$(SLIPWAY) score $(JOB) $(IN) $(OUT)

batch: .venv/stamp  ## score in many containers: make batch JOB=NAME IN= OUT= [SHARDS=4] [ENGINE=local]
	@$(SLIPWAY) batch $(JOB) $(IN) $(OUT) --shards $(SHARDS) --engine $(ENGINE)

submit: .venv/stamp  ## run a verb on an engine: make submit JOB=NAME CMD="train --seed 3" [ENGINE=ray]
	@$(SLIPWAY) submit --engine $(ENGINE) $(JOB) $(CMD)

batches: .venv/stamp  ## list a job's batches: make batches JOB=NAME
	@$(SLIPWAY) batches $(JOB)

batch-cancel: .venv/stamp  ## stop a batch: make batch-cancel JOB=NAME ID=...
	@$(SLIPWAY) batch-cancel $(JOB) $(ID)

bench: .venv/stamp  ## measure beside others: make bench JOB=NAME [SUITE=serving|batch|soak|score]
	@$(SLIPWAY) bench $(JOB) $(CMD)

demo: .venv/stamp  ## open a job's demo page: make demo JOB=NAME [PORT=8080]
	@$(SLIPWAY) demo $(JOB)

up: .venv/stamp  ## start compose.yaml around a trained job: make up JOB=NAME
	@$(SLIPWAY) up $(JOB)

down: .venv/stamp  ## stop what `make up` started; what MLflow holds stays
	@$(SLIPWAY) down

clean: .venv/stamp  ## remove one job's images, or all of ours
	@$(SLIPWAY) clean $(JOB)

hooks:  ## run hooks/pre-commit before each commit
	@git config core.hooksPath hooks

locks: .venv/stamp  ## write the lock files in images/ anew from pyproject.toml
	@PATH="$(CURDIR)/.venv/bin:$$PATH" images/lock

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

# Made anew when its lock changes; slipway itself is found through a path file.
.venv/stamp: images/host.txt
	@echo "making .venv from images/host.txt" >&2
	@python3 -c 'import sys; sys.exit("slipway needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	@python3 -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --find-links wheelhouse --require-hashes --requirement images/host.txt
	@echo "$(CURDIR)/src" > "$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/slipway.pth"
	@printf '#!%s\nfrom slipway.host.cli import main\n\nmain()\n' "$(CURDIR)/.venv/bin/python" > $(SLIPWAY)
	@chmod +x $(SLIPWAY) && touch $@
