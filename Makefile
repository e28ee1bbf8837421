# OptimaCore: every task of the project. `make` or `make help` lists them.

CARGO ?= cargo
TARGET := $(shell $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
# what the programs say they were built from
export OPTIMACORE_COMMIT ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
# ctl dev's options, as in: make run ARGS="--listen 127.0.0.1:7432 --pool-size 8"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help deps build dashboard run check test bench soak deny fmt clean

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what building and testing need (apt, pip, npm)
	infra/deps.sh

build: ## build optimacore and ctl
	$(CARGO) build --release --locked -p optimacore -p optimacore-ctl

DASHBOARD := $(shell find dashboard/src dashboard/public dashboard/index.html dashboard/package-lock.json -type f ! -name font.ts)

dashboard: dashboard/dist/index.html ## build the dashboard into dashboard/dist, and as one file into dashboard/dist-single

# by the lock file, and only when it has changed
dashboard/dist/index.html: $(DASHBOARD)
	cd dashboard && { cmp -s package-lock.json node_modules/.lock || { npm ci --silent && cp package-lock.json node_modules/.lock; }; }
	cd dashboard && npm run --silent build

run: dashboard build ## start PostgreSQL, a replica and the data plane; Ctrl-C stops them
	$(TARGET)/release/ctl dev $(ARGS)

check: ## formatting, lints, the rules of the house
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --quiet -- -D warnings
	$(CARGO) test --locked --quiet -p optimacore-tests --test tidy

# what depends on PostgreSQL's release
NEWEST := --test cancel --test drivers --test leak --test protocol --test state --test tls_auth

test: dashboard ## all tests, against real PostgreSQL; those of NEWEST also against the newest
	$(CARGO) build --locked --quiet -p optimacore -p optimacore-ctl
	$(CARGO) test --workspace --locked --quiet --no-fail-fast
	OPTIMACORE_POSTGRES=newest $(CARGO) test --locked --quiet -p optimacore-tests $(NEWEST)

bench: ## throughput against PostgreSQL and pgbouncer, latency against rate; ARGS="--quick" for a short one
	$(CARGO) build --release --locked -p optimacore -p optimacore-benches
	$(TARGET)/release/bench $(ARGS)
	$(TARGET)/release/optimacore-bench curve --quick

soak: ## the long form of the tests: the oracle, the leak list, attacks, mutated inputs, PostgreSQL's own; about 40 minutes
	$(CARGO) build --locked --quiet -p optimacore
	$(CARGO) build --release --locked --quiet -p optimacore-benches
	$(TARGET)/release/optimacore-bench check --rate-tolerance 5 --pgbench-tolerance 30
	OPTIMACORE_SOAK_SECONDS=600 $(CARGO) test --locked -p optimacore-tests --test oracle -- --nocapture
	OPTIMACORE_SOAK_SECONDS=120 $(CARGO) test --locked -p optimacore-tests --test leak
	OPTIMACORE_SOAK_REPLIES=5000000 $(CARGO) test --locked -p optimacore-tests --test throng
	OPTIMACORE_SOAK_SECONDS=1 $(CARGO) test --locked -p optimacore-tests --test attack
	OPTIMACORE_SOAK_SECONDS=120 $(CARGO) test --locked -p optimacore-tests --test listen random
	OPTIMACORE_SOAK_SECONDS=1 $(CARGO) test --locked -p optimacore-tests --test regress
	OPTIMACORE_FUZZ_SECONDS=60 $(CARGO) test --locked -p optimacore-tests --test fuzz
	OPTIMACORE_FUZZ_SECONDS=60 $(CARGO) test --locked -p optimacore-tests --test reference

deny: ## licences and advisories of every dependency (needs cargo-deny)
	$(CARGO) deny --locked check

fmt: ## format everything
	$(CARGO) fmt --all

clean: ## remove what was built
	$(CARGO) clean
