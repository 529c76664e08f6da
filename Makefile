# Every chore of this repository: `make help`. Needs bash, Python 3.11 and pip; no virtual environment need be active.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE VIRTUAL_ENV

# The interpreter that .venv is made from; which image, the builder, more options for it, and where the sources are public
# (docs/containers.md).
PYTHON ?= python3.11 python3
IMAGE_TARGET ?= cpu
IMAGE_BUILD ?=
IMAGE_OPTIONS ?=
IMAGE_SOURCE ?=
# What `make observe` watches, from where, and more of its options, such as --baseline NAME (docs/observability.md).
URL ?= http://127.0.0.1:3000
PROMETHEUS_PORT ?= 9090
OBSERVE_OPTIONS ?=
# Options of make chaos, demo, fuzz, image-test, overload, soak, tritons and verify.
CHAOS ?=
DEMO ?=
FUZZ ?=
IMAGE_TEST ?=
OVERLOAD ?=
SOAK ?=
TRITONS ?=
VERIFY ?=

EXTRAS := build,serve,report,sweep,heif,otel,ray,tensorrt-rtx,peers,container,dev
TORCH := $(shell grep '^torch==' constraints.txt)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE := rrrnet-serving:$(VERSION)$(if $(filter gpu train,$(IMAGE_TARGET)),-$(IMAGE_TARGET))
# The marks that tests/conftest.py gives to what takes long to start.
HEAVY := service or build or train
REPOSITORY := artifacts/repository/repository.json
BIN := .venv/bin
INSTALLED := .venv/installed
AUDIT := .venv/audit
AXE := .venv/axe/node_modules/axe-core/axe.min.js

# Of pip's output, the names of the packages; its warnings and errors are on standard error and pass untouched.
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Unpacking torch says nothing for long: in a log a sign of life each 30 s. A sleep that outlives it holds no pipe.
TICK := tick() { while sleep 30 >/dev/null 2>&1; do echo "    ... $$SECONDS s"; done; }; tick & trap "kill $$!" EXIT
NAMES := sed -u -n -E 's/^ *Collecting ([^ ]+).*/    \1/p; s/^Installing collected packages.*/    unpacking .../p'

.PHONY: help setup prometheus demo observe verify quick test nightly chaos fuzz overload soak tritons lint layout rules browser format lock audit sbom wheel bento image image-test clean

help: ## List these targets.
	@sed -n -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

setup: $(INSTALLED) ## Make .venv with everything; minutes the first time, no time after that.

.venv/bin/pip:
	@for candidate in $(PYTHON); do
	  "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && python=$$candidate && break
	done || true
	if [ -z "$${python-}" ]; then
	  echo 'make: "$(PYTHON)" is not Python 3.11, which this project and the Triton wheel need:' >&2
	  echo 'make: apt install python3.11 python3-pip (Debian 12), or make setup PYTHON=/path/to/python3.11' >&2
	  exit 1
	fi
	echo "==> .venv from $$("$$python" --version)"
	# Debian splits ensurepip off into python3.11-venv; where that is missing, the machine's pip installs one instead.
	"$$python" -m venv --clear .venv >/dev/null 2>&1 && exit 0
	"$$python" -m venv --clear --without-pip .venv && "$$python" -m pip --python .venv/bin/python install --quiet pip && exit 0
	rm -rf .venv
	echo 'make: .venv could not be made: apt install python3.11-venv (Debian 12), then run this again' >&2
	exit 1

$(INSTALLED): pyproject.toml constraints.txt | .venv/bin/pip
	@$(TICK)
	echo '==> installing $(TORCH) first: then no other package can draw in another build of it'
	$(PIP) install --progress-bar off '$(TORCH)' -c constraints.txt | $(NAMES)
	echo '==> installing the rest: some 100 packages, a few minutes'
	$(PIP) install --progress-bar off -e '.[$(EXTRAS)]' -c constraints.txt | $(NAMES)
	$(PIP) check
	touch $@

prometheus: setup ## Get prometheus and promtool where they are missing: Debian's package, unpacked into .venv without root.
	@$(BIN)/python deploy/prometheus/prometheus_install.py

demo: setup ## Train, build, serve and measure an ensemble beside a ResNet152: 8 minutes on 2 cores.
	@$(BIN)/rrr doctor
	$(BIN)/python benchmarks/demo.py $(DEMO)

observe: prometheus ## Run a real Prometheus against the service at URL, until Ctrl-C: make observe URL=http://127.0.0.1:3000
	@exec $(BIN)/python deploy/prometheus/observe.py --url '$(URL)' --port '$(PROMETHEUS_PORT)' $(OBSERVE_OPTIONS)

verify: prometheus ## Judge the claims of benchmarks/claims.yaml on the models of make demo: by scrapes and a real Prometheus, and by the repository.
	@$(BIN)/python benchmarks/verify.py $(VERIFY)

quick: lint ## Lint, types, and the tests that need no service, no build and no training: two minutes.
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not ($(HEAVY) or nightly)'

test: prometheus lint ## What CI runs: make quick, what builds and trains, then what serves, but the long ones; 8 minutes.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not (service or nightly)'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'service and not nightly'

nightly: prometheus lint ## The long tests: bounds under harm and load, peers, environments, coverage of intervals; 40 minutes.
	@$(BIN)/python -m pytest -m nightly

chaos: setup ## Kill, freeze and stop the service under load and judge every answer: 15 minutes (CHAOS='--seed 1 --stops 5').
	@$(BIN)/python tests/long chaos $(CHAOS)

fuzz: setup $(REPOSITORY) ## Send 20 000 hostile requests to the service: 3 minutes (FUZZ='--seed 1 --requests 5000').
	@$(BIN)/python tests/long fuzz artifacts/repository $(FUZZ)

overload: setup $(REPOSITORY) ## Offer the service three times what it can bear, and judge: 1 minute (OVERLOAD='--factor 5').
	@$(BIN)/python tests/long overload artifacts/repository $(OVERLOAD)

soak: setup ## Send 20 000 good and bad requests; memory, threads, files must stay: 3 minutes (SOAK='--requests 100000').
	@$(BIN)/python tests/long soak $(SOAK)

tritons: setup ## Kill one of two Tritons behind a service, freeze the other, judge 20 000 answers: 3 minutes (TRITONS='--requests 5000').
	@$(BIN)/python tests/long tritons $(TRITONS)

lint: setup ## Check style, format, types and who imports whom.
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

layout: setup ## Draw the rooms of docs/layout.md anew, from the imports.
	@$(BIN)/python docs/layout.py

rules: setup ## Write the PrometheusRule of deploy/kubernetes anew, from deploy/prometheus.
	@$(BIN)/python deploy/prometheus/prometheus_rule.py

browser: setup $(AXE) ## Use the page of rrr serve, rrr report's, Swagger UI and pages of other origins in a real Chromium: apt install chromium npm.
	@$(BIN)/python -m pytest tests/browser/browser_page.py tests/browser/browser_report.py tests/browser/browser_gateways.py

# What looks for faults of pages for those who do not see them; nothing of it is in the product.
$(AXE): | $(INSTALLED)
	@npm install --silent --no-save --ignore-scripts --prefix .venv/axe axe-core@4.14.1

format: setup ## Put the sources in their format and mend what ruff can.
	@$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(AUDIT) ## Write requirements/*.lock anew, with the digest of each file: after pyproject.toml or constraints.txt changed.
	@export UV_CUSTOM_COMPILE_COMMAND='make lock'
	lock='$(AUDIT)/bin/uv pip compile --quiet --python-platform x86_64-manylinux_2_36'
	lock+=' --generate-hashes --no-annotate --no-emit-index-url --strip-extras'
	ours="$$lock pyproject.toml --extra container --constraints constraints.txt"
	$$ours --python-version 3.11 --extra serve --output-file requirements/serving.lock
	$$ours --python-version 3.12 --extra front --output-file requirements/front.lock
	new=$$(mktemp); trap 'rm "$$new"' EXIT
	cp requirements/training.lock "$$new"
	$$ours --python-version 3.11 --extra build --output-file "$$new"
	grep -q '^torch==.*+cpu ' "$$new" || {
	  echo 'make: torch in requirements/training.lock is not the build for CPUs: let uv find that (UV_FIND_LINKS=FOLDER, or UV_TORCH_BACKEND=cpu)' >&2
	  exit 1
	}
	cat "$$new" >requirements/training.lock
	grep '^hatchling==' constraints.txt | $$lock - --python-version 3.11 --constraints constraints.txt --output-file requirements/build.lock
	$$lock requirements/audit.in --python-version 3.11 --output-file requirements/audit.lock

audit: $(AUDIT) ## Ask an advisory service about every locked package; requirements/advisories.toml lists what is accepted.
	@awk -v today="$$(date +%F)" '/^id/ {id = $$3} /^review_by/ && $$3 <= today {print id " is due for review since " $$3; due = 1} END {exit due}' requirements/advisories.toml
	ask() {
	  $(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off \
	    $$(sed -n 's/^id = "\(.*\)"/--ignore-vuln \1/p' requirements/advisories.toml) "$$@"
	}
	ask $(addprefix --requirement requirements/,serving.lock front.lock build.lock)
	ask --requirement constraints.txt  # apart: it has no digests, which pip-audit wants of all files together or of none

sbom: $(AUDIT) ## Write dist/sbom*.cdx.json: what the serving environment and the images gpu and train hold, as CycloneDX.
	@mkdir -p dist
	sbom() {
	  $(AUDIT)/bin/python -W ignore::UserWarning -m cyclonedx_py requirements "requirements/$$1.lock" --pyproject pyproject.toml --output-file "dist/$$2"
	  echo "dist/$$2"
	}
	sbom serving sbom.cdx.json
	sbom front sbom-gpu.cdx.json
	sbom training sbom-train.cdx.json

# An environment of its own: what asks about packages is not mixed with them.
$(AUDIT): requirements/audit.lock | setup
	@rm -rf $@
	$(BIN)/python -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps --requirement requirements/audit.lock
	touch $@

wheel: setup ## Build dist/*.whl.
	@$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	ls dist/*.whl

bento: setup $(REPOSITORY) ## Build a Bento of the service and artifacts/repository.
	@BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build

image: ## Build the container image of the service with docker, buildah or podman; IMAGE_TARGET=gpu or train for the others.
	@build='$(IMAGE_BUILD)'
	if [ -n "$$build" ]; then :
	elif docker info >/dev/null 2>&1; then build='docker build'
	elif command -v buildah >/dev/null; then build='buildah build --layers --format docker'
	elif command -v podman >/dev/null; then build='podman build --format docker'
	else
	  echo 'make: neither a docker engine nor buildah nor podman is here: apt install buildah' >&2
	  exit 1
	fi
	revision=$$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null) || revision=
	$$build --target '$(IMAGE_TARGET)' --build-arg 'VERSION=$(VERSION)' --build-arg "REVISION=$$revision" \
	  --build-arg "CREATED=$$(date -u +%FT%TZ)" --build-arg 'SOURCE=$(IMAGE_SOURCE)' $(IMAGE_OPTIONS) --tag '$(IMAGE)' .

image-test: setup ## Build the images on a Debian of debootstrap's, serve in them and judge: root, apt install buildah debootstrap; 15 minutes.
	@$(BIN)/python tests/long image $(IMAGE_TEST)

clean: ## Remove what tools left behind; .venv and artifacts stay.
	@rm -rf dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find models build service tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(REPOSITORY):
	@echo 'make: there is no $(@D) to pack: make demo writes one, or rrr repository ENGINE... --out $(@D)' >&2
	exit 1
