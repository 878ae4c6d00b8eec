# Eider's commands. `make demo` and `make test` do all of their own set-up; each recipe gets cargo's
# variables (the prebuilt DuckDB, the build directory outside the clone) from scripts/env.sh.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# `eval "$(false)"` would succeed, and `set -e` overlooks what is left of an &&: hence two commands.
SETUP = environment="$$(scripts/env.sh)"; eval "$$environment"

.PHONY: help
help: ## Show this list
	@printf 'Eider: make TARGET\n\n'
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) \
	    | while IFS=$$'\t' read -r name text; do printf '  %-16s %s\n' "$$name" "$$text"; done

.PHONY: build
build: ## Build the binary and print where it is
	@$(SETUP); cargo build --locked $$EIDER_CARGO_FLAGS; \
	printf '%s\n' "$$CARGO_TARGET_DIR/debug/eider"

.PHONY: image
image: ## Make a container image of the debug binary without a registry (IMAGE=eider:dev)
	@$(SETUP); cargo build --locked $$EIDER_CARGO_FLAGS; \
	scripts/image.sh "$(or $(IMAGE),eider:dev)" "$$CARGO_TARGET_DIR/debug/eider"

.PHONY: demo
demo: ## Back up, damage and restore real files in a temporary directory, and show it
	@$(SETUP); cargo build --locked $$EIDER_CARGO_FLAGS; \
	EIDER="$$CARGO_TARGET_DIR/debug/eider" scripts/demo.sh

.PHONY: test
test: ## Run every test; says which suites had to be skipped
	@$(SETUP); scripts/test.sh

.PHONY: e2e
e2e: ## Run the tests on a real cluster, the one that KUBECONFIG names
	@$(SETUP); EIDER_REQUIRE=kubernetes scripts/test.sh --ignore-default-filter -E 'test(/^kubernetes::/)'

.PHONY: e2e-kills
e2e-kills: ## Of those, what kills the operator, breaks its world and takes its permissions: half an hour or more
	@$(SETUP); EIDER_REQUIRE=kubernetes scripts/test.sh --ignore-default-filter -E 'test(/^kubernetes::(kills|failures|permissions)::/)'

.PHONY: e2e-memory
e2e-memory: ## Peak memory of the program on a million files and a file of 20 GB; minutes, little disk
	@$(SETUP); scripts/test.sh --ignore-default-filter -E 'test(/^memory::/)'

.PHONY: ci
ci: ## Everything a change must pass, cheapest first
	@$(MAKE) fmt-check
	@$(MAKE) scan
	@$(MAKE) deny
	@$(MAKE) lint
	@$(MAKE) generate-check
	@$(MAKE) test

.PHONY: bench
bench: ## Compare the archive engine with its peers and write docs/reference/benchmarks.md
	@$(SETUP); scripts/bench.sh

.PHONY: fuzz
fuzz: ## Fuzz reader, index and manifest on a nightly toolchain (SECONDS=60 each)
	@$(SETUP); scripts/fuzz.sh "$(or $(SECONDS),60)" $(TARGETS)

.PHONY: fmt
fmt: ## Format the sources
	@cargo fmt

.PHONY: fmt-check
fmt-check: ## Fail if a source is not formatted
	@cargo fmt --check

.PHONY: scan
scan: ## Fail if a tracked file names a path of this machine or a script has a syntax error
	@scripts/scan.sh

.PHONY: deny
deny: ## Check licences, banned crates, sources and advisories of the dependencies
	@scripts/deny.sh

.PHONY: lint
lint: ## Clippy on all targets, warnings denied
	@$(SETUP); cargo clippy --locked --all-targets $$EIDER_CARGO_FLAGS -- -D warnings

.PHONY: generate
generate: ## Write the generated files (crds/, docs/reference/)
	@$(SETUP); scripts/generate.sh

.PHONY: generate-check
generate-check: ## Fail if a generated file is not up to date
	@$(SETUP); scripts/generate.sh --check

.PHONY: env
env: ## Print the variables for plain cargo: eval "$(make -s env)"
	@scripts/env.sh

.PHONY: clean
clean: ## Remove the build directory (not the fetched DuckDB)
	@$(SETUP); cargo clean
