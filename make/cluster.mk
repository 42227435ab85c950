# The test cluster: see tests/cluster/README.md. Included by the root Makefile.

CLUSTER = cargo run --quiet --package durward-cluster --
# What Debian has to give; Go and Rust are there. Each is quick when already installed.
CLUSTER_PACKAGES = buildah busybox-static conntrack gcc iproute2 iptables libc6-dev libseccomp-dev mount pkg-config util-linux
# What `make test-cluster` hands to `cargo test`.
CLUSTER_TESTS ?= --package durward-cluster
# The same on kind; its node's processes are not ours to crash and restart.
KIND_TESTS ?= --package durward-cluster --test e2e_workloads
KIND_NAME ?= durward

.PHONY: cluster-deps cluster-build cluster-up cluster-down cluster-status test-cluster kind-e2e

cluster-deps: ## install what the test cluster needs from Debian
	@missing=; for package in $(CLUSTER_PACKAGES); do \
	    dpkg-query --show --showformat='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }

cluster-build: cluster-deps ## build the cluster's programs (a quarter of an hour once, then nothing)
	$(CLUSTER) build

cluster-up: ## bring up the shared test cluster
	$(CLUSTER) up

cluster-down: ## end every test cluster and remove every trace of it
	$(CLUSTER) down

cluster-status: ## show the test clusters
	$(CLUSTER) status

test-cluster: test-deps cluster-deps ## run the tests that need a real Kubernetes
	$(CLUSTER) test $(CLUSTER_TESTS)

# Needs Docker, kind and kubectl, and a kind node image of Kubernetes 1.37 or newer; our own images go in by `kind load`.
kind-e2e: ## run the same end-to-end tests on a kind cluster
	kind get clusters | grep -qx $(KIND_NAME) || kind create cluster --name $(KIND_NAME) $(if $(KIND_IMAGE),--image $(KIND_IMAGE))
	docker build --tag durward.test/durward:test .
	kind load docker-image durward.test/durward:test --name $(KIND_NAME)
	mkdir -p target && kind get kubeconfig --name $(KIND_NAME) > target/kind.kubeconfig
	KUBECONFIG=$(CURDIR)/target/kind.kubeconfig $(CLUSTER) test $(KIND_TESTS)
