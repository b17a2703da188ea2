# `make` lists the targets. Everything runs in .venv, which `make setup` keeps up to date.

python := .venv/bin/python
# Checks need no database: makemigrations would warn that it finds none.
checked := $(python) -W "ignore:Got an error checking a consistent migration history" manage.py

.DEFAULT_GOAL := help
.PHONY: help setup frameworks browser demo up test lint schema format bench deploy lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## make .venv with the locked packages (PYTHON=... chooses the interpreter)
	@scripts/setup

frameworks: setup ## add the AI frameworks that the Python SDK is tested with
	@scripts/setup-frameworks

demo: setup ## run the whole product with a demo tenant and traffic (EXIT=1 ends it, ARGS=... are passed on)
	@$(python) manage.py demo $(if $(filter-out 0,$(EXIT)),--exit) $(ARGS)

up: setup ## run the whole product in the foreground until Ctrl-C (ARGS="--port 8000")
	@$(python) manage.py up $(ARGS)

browser:
	@scripts/setup-browser >/dev/null

test: frameworks browser ## run every test, against real servers (ARGS="-k name" narrows it)
	@$(python) -m pytest -n 2 --dist worksteal $(ARGS)

# Checks need no secrets either.
lint schema: export DEBUG := true
lint: setup ## check style, types, import directions, migrations and openapi.yaml
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy .
	cd sdk/python && ../../$(python) -m mypy src examples
	.venv/bin/lint-imports
	$(checked) check --fail-level WARNING
	$(checked) makemigrations --check --dry-run
	$(checked) spectacular --validate --fail-on-warn --file .venv/openapi.yaml
	@diff -u openapi.yaml .venv/openapi.yaml || { echo 'openapi.yaml is out of date: run `make schema`.' >&2; exit 1; }

schema: setup ## write openapi.yaml from the code
	$(checked) spectacular --validate --fail-on-warn --file openapi.yaml

format: setup ## rewrite the code in the house style
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

bench: setup ## measure the speed promises side by side, in up to half an hour (ARGS=... are passed on)
	@$(python) -m bench $(ARGS)

deploy: setup ## run a process of an older commit beside one of this checkout (AGAINST=commit)
	@$(python) -m bench.deploy $(AGAINST)

lock: setup ## pin the newest allowed packages in both lock files (needs uv)
	@command -v uv >/dev/null || { echo 'make lock needs uv on the PATH: pip install uv' >&2; exit 1; }
	$(compile) --extra embedded -o requirements.lock
	$(compile) --extra embedded --extra dev -c requirements.lock -o requirements-dev.lock
	$(python) sdk/python/scripts/lock_frameworks.py

compile := uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate

clean: ## stop the embedded servers; delete their data, .venv and caches
	@if [ -x $(python) ]; then for home in .tokvigil/test/* .tokvigil/* .tokvigil; do \
		$(python) -m tokvigil_site.embedded delete --home "$$home"; done; fi
	rm -rf .tokvigil .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache staticfiles
