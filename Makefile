# Two commands matter: `make demo` and `make test`. Both set up everything that they need.

.PHONY: help setup demo test check lint tests bench

help:
	@echo "make demo   play the whole loop: images -> agent over MCP -> report (about five minutes on two cores)"
	@echo "make test   lint, types, import rules and all tests"
	@echo "make bench  measure start-up, tool latency, run overhead, scoring and ingest"

setup:
	@sh scripts/setup.sh

demo: setup
	.venv/bin/clinloop demo

test check: lint tests

lint: setup
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .
	.venv/bin/pyright
	.venv/bin/lint-imports

tests: setup
	.venv/bin/pytest -n 2 --dist loadfile -m "not slow"
	.venv/bin/pytest -m "slow and not long"

bench: setup
	.venv/bin/python benchmarks/run.py
