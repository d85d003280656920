# Everything runs from .venv; nothing here needs uv. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .make
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run test check unit images schemas security gvisor soak mcpb lock clean distclean setup
.DELETE_ON_ERROR:

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

run: setup ## Set everything up, then run programs through MCP
	@$(BIN)/codecell demo

test: setup $(STAMPS)/dev $(STAMPS)/node $(STAMPS)/chromium images ## The same set-up, then every check and every test, real Docker included
	@$(MAKE) --no-print-directory lint
	@$(BIN)/codecell setup --yes --runtime runsc || test "$$CI" != true
	$(PYTEST)

check: $(STAMPS)/dev lint unit ## Formatting, lint, types, layers and the unit tests; no engine
	$(PYTEST) tests/security/test_coverage.py

.PHONY: lint
lint: $(STAMPS)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(STAMPS)/dev ## The unit tests alone: seconds, no engine
	$(PYTEST) tests/unit

security: setup $(STAMPS)/dev ## The attacks against real cells
	$(PYTEST) tests/security

# What also has to hold there; tests/security/requirements.py says what is otherwise, and why.
UNDER_GVISOR := $(addprefix tests/integration/test_,languages.py fidelity.py sessions.py files.py \
	values.py cases.py) $(addprefix tests/security/test_,network.py privileges.py processes.py \
	output.py cells.py filesystem.py sessions.py reuse.py resources.py walls.py)
gvisor: images $(STAMPS)/dev ## The same tests under gVisor: languages, files, sessions, walls (30 minutes)
	@$(BIN)/codecell setup --yes --runtime runsc
	$(PYTEST) tests/security/test_gvisor.py
	CODECELL_ENGINE__RUNTIME=runsc $(PYTEST) $(UNDER_GVISOR)

soak: setup $(STAMPS)/dev ## 2,000 mixed runs, 1,000 sessions, and the parsers fuzzed for longer (20 minutes)
	SOAK=2000 $(PYTEST) -s --timeout 3600 tests/integration/test_soak.py tests/security/test_fuzz.py
	SOAK_SESSIONS=1000 $(PYTEST) --timeout 3600 tests/integration/test_sessions.py -k leave_nothing_behind

images: setup ## Build every language's image that is missing or outdated
	@$(BIN)/codecell images build --all

schemas: $(STAMPS)/run ## Write tool_schemas/ from the wire models
	$(BIN)/python -m codecell.schemas tool_schemas

mcpb: $(STAMPS)/node ## Make the bundle for Claude Desktop: build/codecell-VERSION.mcpb
	@$(BIN)/python deploy/mcpb/bundle.py

setup: $(STAMPS)/run
	@$(BIN)/codecell setup --yes

# The first of two: what running takes. The stamp is older than pyproject or the lock: once more.
$(STAMPS)/run: $(STAMPS)/venv requirements.lock pyproject.toml
	@echo "installing codecell and its dependencies into $(VENV) (a minute at most)"
	@$(PIP) install -qq --require-hashes -r requirements.lock
	@$(PIP) install -qq --no-build-isolation --no-deps -e .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/run requirements-dev.lock
	@echo "installing the development tools into $(VENV)"
	@$(PIP) install -qq --require-hashes -r requirements-dev.lock
	@touch $@

# The conformance suite, the Inspector and the TypeScript SDK, for tests/conformance.
$(STAMPS)/node: $(STAMPS)/dev tests/conformance/package-lock.json
	@echo "installing the Node tools of tests/conformance"
	@$(BIN)/python tests/conformance/install.py
	@touch $@

# The browser that the status page is tested in; where it can't be installed the tests say so.
$(STAMPS)/chromium: .ci/get-chromium
	@sh .ci/get-chromium
	@touch $@

# A virtual environment that was removed or half made is made again, whatever the stamps say; a
# whole one that somebody else made is used.
WHOLE := $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
ifneq ($(shell $(WHOLE) && echo yes),yes)
.PHONY: $(STAMPS)/venv
endif
$(STAMPS)/venv:
	@$(WHOLE) || sh .ci/make-venv "$(PYTHON)" "$(VENV)"
	@mkdir -p $(STAMPS) && rm -f $(STAMPS)/run $(STAMPS)/dev && touch $@

# The locks name no index: pip takes the files from wherever it is configured to, by their hashes.
COMPILE := --quiet --generate-hashes --no-emit-index-url --no-emit-options --no-header \
	--no-annotate --strip-extras --allow-unsafe
WANTED := import sys, tomllib; \
	table = tomllib.load(open("pyproject.toml", "rb")); \
	dev = table["dependency-groups"]["dev"]; \
	build = table["build-system"]["requires"] + [n for n in dev if n.startswith("editables")]; \
	print("\n".join(table["project"]["dependencies"] + build + (dev if "dev" in sys.argv else [])))

lock: $(STAMPS)/dev ## Resolve requirements.lock and requirements-dev.lock anew
	@mkdir -p $(STAMPS)/lock
	@$(BIN)/python -m venv $(STAMPS)/lock/venv
	@$(STAMPS)/lock/venv/bin/python -m pip install --quiet pip-tools
	@$(BIN)/python -c '$(WANTED)' >$(STAMPS)/lock/run.in
	@$(BIN)/python -c '$(WANTED)' dev >$(STAMPS)/lock/dev.in
	@echo "-c $(CURDIR)/requirements.lock" >>$(STAMPS)/lock/dev.in
	$(STAMPS)/lock/venv/bin/pip-compile $(COMPILE) $(UPGRADE) -o requirements.lock $(STAMPS)/lock/run.in
	$(STAMPS)/lock/venv/bin/pip-compile $(COMPILE) $(UPGRADE) -o requirements-dev.lock $(STAMPS)/lock/dev.in
	@! grep -nE '://|^-' requirements.lock requirements-dev.lock || { echo "the locks name an index" >&2; exit 1; }

clean: ## Remove caches and build results
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too
	@rm -rf $(VENV) $(STAMPS) tests/conformance/node_modules

.PHONY: bench bench-quick
bench: $(STAMPS)/run ## Measure beside the peers (25 minutes); writes benchmarks/results/ and the README
	@$(BIN)/codecell setup --yes >&2
	@$(BIN)/python -m benchmarks

.PHONY: load
load: $(STAMPS)/run ## 200 HTTP clients for a minute: lost or crossed results, leaks
	@$(BIN)/codecell setup --yes >&2
	@$(BIN)/python -m benchmarks.load --clients 200 --seconds 60

bench-quick: $(STAMPS)/run ## The ratios alone as JSON, in less than a minute
	@$(BIN)/codecell setup --yes >&2
	@$(BIN)/python -m benchmarks --quick
