# Entry points. A newcomer needs only `make run` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/durward
# Python environment of the tests and examples, one for each version of its requirements
REQUIREMENTS := tests/requirements.txt examples/orders/requirements.txt
VENV := $(CACHE)/venv-$(shell cat $(REQUIREMENTS) | sha256sum | cut -c1-12)
export DURWARD_TEST_VENV := $(VENV)

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

run: ## Build and start the engine on the example: durward up examples/orders
	cargo run --locked -- up examples/orders

build: ## Build everything
	cargo build --locked --workspace

release: ## Build the release binary
	cargo build --locked --release

# nothing is built twice there, and the cache of incremental builds is as large as the builds themselves
ifdef CI
export CARGO_INCREMENTAL := 0
endif

test: test-deps cluster-deps ## Run every lane of the tests; installs what they need
	@make/lanes lint unit standalone cluster

test-fast: test-deps ## Run the lanes that need no Kubernetes
	@make/lanes lint unit standalone

lane-lint: lint-rust

# each crate by itself
lane-unit:
	cargo test --locked --workspace --exclude durward-tests

# Random worlds, each decided by the engine and by the reference model
WORLDS ?= 1000000

soak-model: ## Compare the engine and its tools with the reference model in a million random worlds (WORLDS sets how many)
	DURWARD_MODEL_WORLDS=$(WORLDS) cargo test --locked --release --package durward-model

# `durward` as a program, without a cluster; the tests would build it too, but silently
lane-standalone:
	cargo build --locked --bin durward
	cargo test --locked --test standalone

reference: ## Write the reference pages that are generated from the code
	UPDATE=1 cargo test --locked --quiet --package durward-tests --test standalone reference::

architecture: ## Write docs/contributing/architecture.md: crates, layers and line counts, from the sources
	UPDATE=1 cargo test --locked --quiet --package durward-tests --test standalone architecture::house
	cat docs/contributing/architecture.md

BENCH := $(CACHE)/bench

bench: test-deps $(BENCH)/opa-envoy-plugin $(BENCH)/ghz ## Measure decisions, relations, ext_authz and gates beside their peers, and the operator
	cargo bench --locked -p durward-api --bench decide
	cargo bench --locked -p durward-api --bench relations
	cargo bench --locked -p durward-pki --bench issue
	cargo bench --locked -p durward-tests --bench apply
	OPA_ENVOY=$(BENCH)/opa-envoy-plugin GHZ=$(BENCH)/ghz cargo bench --locked -p durward-tests --bench ext_authz
	OPA_ENVOY=$(BENCH)/opa-envoy-plugin cargo bench --locked -p durward-tests --bench gate
	cargo bench --locked -p durward-tests --bench openfga
	cd benches/cedar && CARGO_TARGET_DIR=$(CURDIR)/target/cedar cargo run --locked --release
	$(MAKE) bench-operator

bench-operator: cluster-deps $(BENCH)/ghz ## Measure the operator in the test cluster: propagation, memory, writes at rest, issuance; certificates beside SPIRE
	cargo bench --locked -p durward-tests --bench operator
	cargo bench --locked -p durward-tests --bench issuance
	cargo bench --locked -p durward-tests --bench gates
	GHZ=$(BENCH)/ghz cargo bench --locked -p durward-tests --bench certificates

bench-build: ## Time a cold and a warm release build, and print the size of the program
	@make/build-times

$(BENCH)/opa-envoy-plugin: benches/go/opa-envoy/go.sum
	mkdir -p $(BENCH) && cd benches/go/opa-envoy && go build -ldflags "-s -w" -o $@ github.com/open-policy-agent/opa-envoy-plugin/cmd/opa-envoy-plugin

$(BENCH)/ghz: benches/go/ghz/go.sum
	mkdir -p $(BENCH) && cd benches/go/ghz && go build -ldflags "-s -w" -o $@ github.com/bojand/ghz/cmd/ghz

lint-rust: ## Check formatting and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@# --all-targets leaves these out, since a bare `cargo test` does
	cargo clippy --locked --test cluster --test kubernetes -- -D warnings

fmt: ## Format the sources
	cargo fmt --all

deny: ## Check licences, advisories and the one crypto provider (needs cargo-deny)
	cargo deny check

crds: ## Generate crds/ from crates/api, and the chart's copy
	UPDATE=1 cargo test --locked --quiet -p durward-api --test resources_crds the_files_are_not_stale
	cp crds/*.yaml charts/durward/files/crds/

test-deps: $(VENV)/done ## Install tools of the tests: nginx, curl, openssl, Chromium, libfaketime, and Python packages in a cache
	@nginx -v 2>/dev/null && curl --version >/dev/null && openssl version >/dev/null && chromedriver --version >/dev/null \
	    && ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 \
	    || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends nginx-light curl openssl chromium chromium-driver libfaketime; }

$(VENV)/done: $(REQUIREMENTS)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement $(firstword $(REQUIREMENTS))
	ln -sfn $(VENV) $(CACHE)/venv
	touch $@

include make/cluster.mk

.PHONY: bench-build architecture reference lane-lint lane-unit lane-standalone bench bench-operator help run test-fast build release soak-model test lint-rust fmt deny crds test-deps
