# Needs Python 3.11 or newer and make. Everything else is installed into .venv, .venv-proto, and
# for the tests inside engines into an environment of each engine's own.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PYTEST_ARGS ?=

PROTOS := $(wildcard proto/tierd_proto/v1/*.proto)
# The generated code of this release checks no runtime version, so it loads with protobuf 4.21 to 7.
PROTO_TOOLS := grpcio-tools==1.62.3 protobuf==4.25.8 'setuptools<81'
PROTOC := .venv-proto/bin/python -m grpc_tools.protoc

# kvikio without cupy, which only a real GPU needs: its tests bring a driver of their own.
KVIKIO := kvikio-cu12 libkvikio-cu12 nvidia-cufile-cu12 rapids-logger cuda-pathfinder

VLLM := .venv-vllm/bin
LMCACHE := .venv-lmcache/bin

.PHONY: setup environments test test-vllm test-lmcache check demo bench proto clean
.DELETE_ON_ERROR:

setup: .venv/.installed

environments: .venv/.installed .venv-proto/.installed .venv-vllm/.installed .venv-lmcache/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "tierd needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[daemon,bench,dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(KVIKIO)
	touch $@

.venv-proto/.installed:
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --quiet $(PROTO_TOOLS)
	touch $@

# One thread for torch in each of two processes: on two cores more of them wait for one another.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(PYTEST_ARGS) tests

# What plugs into vLLM, in vLLM. The daemon runs in the environment of the other tests, as in life.
test-vllm: .venv/.installed .venv-vllm/.installed
	$(BIN)/pytest -n 2 --dist loadfile --vllm-python $(VLLM)/python $(PYTEST_ARGS) tests/vllm

# A real `lmcache server` with tierd as its L2.
test-lmcache: .venv/.installed .venv-lmcache/.installed
	$(BIN)/pytest --lmcache-python $(LMCACHE)/python $(PYTEST_ARGS) tests/lmcache

.venv-%/.installed: tests/%/requirements.txt pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --requirement $<
	$(@D)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

check: .venv/.installed .venv-proto/.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "generated protobuf code in step with the .proto files"
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT \
		&& $(PROTOC) -I proto --python_out="$$fresh" --pyi_out="$$fresh" --grpc_python_out="$$fresh" $(PROTOS) \
		&& for made in "$$fresh"/tierd_proto/v1/*; do \
			diff -u "proto/tierd_proto/v1/$$(basename "$$made")" "$$made" \
				|| { echo "out of step: run 'make proto' and commit what it writes" >&2; exit 1; }; \
		done

proto: .venv-proto/.installed
	$(PROTOC) -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto $(PROTOS)

demo: .venv/.installed
	$(BIN)/tierd replay bench/traces/agent-demo.jsonl.gz --embedded --bytes-per-token 16KiB \
		--device 64MiB --host 192MiB --disk 2GiB \
		--html demo-report.html --json demo-report.json

bench: .venv/.installed
	$(BIN)/tierd bench --json bench-report.json

clean:
	rm -rf .venv .venv-proto .venv-vllm .venv-lmcache build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -f demo-report.html demo-report.json bench-report.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
