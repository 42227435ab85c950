# The test cluster: see tests/cluster/README.md. Included by the root Makefile.

CLUSTER = cargo run --quiet --locked --bin durward-cluster --
# Debian packages; Go and Rust are expected.
CLUSTER_PACKAGES = buildah busybox-static conntrack gcc iproute2 iptables libc6-dev libseccomp-dev mount pkg-config util-linux
# Arguments of `cargo test` for the cluster lane: the test cluster itself, then Durward in it.
CLUSTER_TESTS ?= --test cluster --test kubernetes
# On kind only these: tests can't restart the processes of its node.
KIND_TESTS ?= --test cluster -- workloads::
KIND_NAME ?= durward

.PHONY: cluster-deps cluster-build cluster-up cluster-down cluster-status test-cluster lane-cluster kind-e2e

cluster-deps: ## Install the Debian packages of the test cluster
	@missing=; for package in $(CLUSTER_PACKAGES); do \
	    dpkg-query --show --showformat='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }

cluster-build: cluster-deps ## Build the cluster's programs (a quarter of an hour, once)
	$(CLUSTER) build

cluster-up: ## Bring up the shared test cluster
	$(CLUSTER) up

cluster-down: ## Take down every test cluster and remove every trace of it
	$(CLUSTER) down

cluster-status: ## Show the test clusters
	$(CLUSTER) status

test-cluster: test-deps cluster-deps ## Run the lane that needs a real Kubernetes
	@make/lanes cluster

# Two threads, since some tests wait for minutes; modules take turns, see tests/src/turn.rs.
lane-cluster:
	RUST_TEST_THREADS=2 $(CLUSTER) test --locked $(CLUSTER_TESTS)

# Needs Docker, kind and kubectl, and a kind node image of Kubernetes 1.37 or newer; images are loaded by `kind load`.
kind-e2e: ## Run the end-to-end tests on a kind cluster
	kind get clusters | grep -qx $(KIND_NAME) || kind create cluster --name $(KIND_NAME) $(if $(KIND_IMAGE),--image $(KIND_IMAGE))
	docker build --tag durward.test/durward:test .
	kind load docker-image durward.test/durward:test --name $(KIND_NAME)
	mkdir -p target && kind get kubeconfig --name $(KIND_NAME) > target/kind.kubeconfig
	KUBECONFIG=$(CURDIR)/target/kind.kubeconfig $(CLUSTER) test $(KIND_TESTS)
