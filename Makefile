# One line each; all set-up from a fresh clone is in .ci/set-up.

.DEFAULT_GOAL := help
.PHONY: help demo test check docs bench chaos chaos-ha simulate clean

# Read when a recipe runs, after the set-up has written it.
VENV = $(shell cat .cache/venv)
PYTEST = $(VENV)/bin/python -m pytest -n $(or $(JOBS),2) --dist worksteal
ROOMS = $(wildcard $(addprefix tests/,tidy unit contract property golden damage fault simulation rules pg recoveries ha cli docs))

help: ## Show this.
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 14

demo: set-up-demo ## See the whole story on a PostgreSQL of its own, in about a minute.
	@$(VENV)/bin/pghaven demo $(ARGS)

test: set-up-test ## Run all tests but the long ones. ARGS="-k word" for some, JOBS=n for n processes, SEED=n.
	@$(PYTEST) -m "not slow" --seed $(or $(SEED),1) $(ROOMS) $(ARGS)

check: set-up-check ## Lint, format, types, layers: in seconds.
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy --strict
	@$(VENV)/bin/python -m pytest -q tests/tidy

docs: set-up-check ## Write the generated pages.
	@$(VENV)/bin/python -m tests.tidy.pages

bench: set-up-test ## Measure against other tools; see bench/README.md.
	@$(VENV)/bin/python -m bench $(ARGS)

chaos: set-up-test ## Run the long tests: crashes, kills, seeds.
	@$(PYTEST) -m slow tests $(ARGS)

chaos-ha: set-up-test ## Play faults on three nodes under Patroni: SEED=1 ROUNDS=17, goes on where it was left.
	@$(VENV)/bin/python -m tests.chaos --seed $(or $(SEED),1) --rounds $(or $(ROUNDS),17) --state .cache/chaos-$(or $(SEED),1).jsonl --logs .cache/chaos

simulate: set-up-check ## Play histories of the repository's protocol: SECONDS=600 SEED=1000.
	@$(VENV)/bin/python -m tests.simulation $(or $(SECONDS),60) $(or $(SEED),0)

clean: ## Remove everything that was made here.
	@case "$(shell cat .cache/venv 2>/dev/null)" in /var/tmp/pghaven-*/venv) rm -rf "$(patsubst %/venv,%,$(shell cat .cache/venv 2>/dev/null))";; esac
	@rm -rf .venv .cache .hypothesis .mypy_cache .ruff_cache .pytest_cache dist
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

set-up-%:
	@.ci/set-up $*
