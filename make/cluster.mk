# The test cluster: see tests/cluster/README.md. Included by the root Makefile.

CLUSTER = cargo run --quiet --package durward-cluster --
# What Debian has to give; Go and Rust are there. Each is quick when already installed.
CLUSTER_PACKAGES = buildah busybox-static conntrack gcc iproute2 iptables libc6-dev libseccomp-dev mount pkg-config util-linux
# What `make test-cluster` hands to `cargo test`.
CLUSTER_TESTS ?= --package durward-cluster
KIND_NAME ?= durward

.PHONY: cluster-deps cluster-build cluster-up cluster-down cluster-status test-cluster kind-e2e

cluster-deps: ## install what the test cluster needs from Debian
	@missing=$$(dpkg-query --show --showformat='$${Package} $${Status}\n' $(CLUSTER_PACKAGES) 2>/dev/null \
	    | awk '$$4 == "installed" {print $$1}' | sort > /tmp/.cluster-deps.$$$$; \
	    printf '%s\n' $(CLUSTER_PACKAGES) | sort | comm -23 - /tmp/.cluster-deps.$$$$; rm -f /tmp/.cluster-deps.$$$$); \
	if [ -n "$$missing" ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; fi

cluster-build: cluster-deps ## build the cluster's programs (a quarter of an hour once, then nothing)
	$(CLUSTER) build

cluster-up: ## bring up the shared test cluster
	$(CLUSTER) up

cluster-down: ## end every test cluster and remove every trace of it
	$(CLUSTER) down

cluster-status: ## show the test clusters
	$(CLUSTER) status

test-cluster: cluster-deps ## run the tests that need a real Kubernetes
	$(CLUSTER) test $(CLUSTER_TESTS)

# Needs Docker, kind and kubectl; images go in by `kind load`, nothing is pulled but kind's own node.
kind-e2e: ## run the same end-to-end tests on a kind cluster
	kind get clusters | grep -qx $(KIND_NAME) || kind create cluster --name $(KIND_NAME) --config tests/cluster/kind.yaml
	kind get kubeconfig --name $(KIND_NAME) > $(CURDIR)/target/kind.kubeconfig
	KUBECONFIG=$(CURDIR)/target/kind.kubeconfig $(CLUSTER) test --package durward-cluster --test e2e_workloads
