# Everything a newcomer needs: `make serve` and `make test` do their own set-up.

PYTHON ?= python3
CC ?= cc
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard src/fastchat/_fanout.* src/fastchat/fanout/*.pxi)
# Passed on to the command: make serve ARGS="--port 9000"
ARGS ?=
FUZZ_SECONDS ?= 60
# Tests that load the machine, and compare: nothing runs beside them.
ALONE := tests/adversity $(filter-out %_page.py %_input.py,$(wildcard tests/threats/test_*.py)) \
  tests/server/test_bench.py tests/server/web/test_capacity.py tests/server/test_flood.py tests/browser/test_hour.py

.PHONY: serve test fuzz conformance soak lint types bench build screenshots lighthouse chromium firefox clang clean help
.DEFAULT_GOAL := help

help:
	@echo "make serve   the chat, at http://127.0.0.1:8080   (ARGS=\"--port 9000\")"
	@echo "make test    everything that is checked before a change lands"
	@echo "make bench   what a broadcast costs               (ARGS=\"--clients 10,100\")"
	@echo "make conformance   RFC 6455, by the Autobahn|Testsuite (needs a Python 2.7)"
	@echo "make fuzz    any bytes, at the parsers and the hub (FUZZ_SECONDS=600)"
	@echo "make soak    the promise under fire, for some minutes"
	@echo "make lighthouse    what Lighthouse says of the page (needs node and npm)"
	@echo "make lint types build screenshots clean"

serve: $(VENV)/serve.stamp
	@exec $(BIN)/fastchat serve $(ARGS)

test: lint types build/debug/stamp build/sanitized/stamp chromium firefox
ifeq ($(ARGS),)
	$(BIN)/python -m pytest -q -n 3 --dist loadfile $(ALONE:%=--ignore=%)
	$(BIN)/python -m pytest $(ALONE)
else
	$(BIN)/python -m pytest $(ARGS)
endif
	FASTCHAT_DEBUG=1 $(BIN)/python -m pytest -q tests/unit/hub

# The parsers and the hub, for FUZZ_SECONDS in all. ARGS="hub" for one of them.
fuzz: $(VENV)/fuzz.stamp build/fuzz/stamp
	$(BIN)/python fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

# Part of the tests too, where there is a Python 2.7. ARGS="--cases '5.*'" for some cases.
conformance: $(VENV)/test.stamp
	$(BIN)/python conformance/run.py $(ARGS)

# The promise under fire: 200 clients in 20 rooms, 50 times kill -9, 50 disconnects a second and,
# where small disks can be mounted (by root), three that are full for a while.
# Then four workers with 400 clients: 100 times kill -9 on one of them or on the relay.
soak: $(VENV)/test.stamp
	FASTCHAT_SOAK_CLIENTS=200 FASTCHAT_SOAK_ROOMS=20 FASTCHAT_SOAK_KILLS=50 FASTCHAT_SOAK_DISCONNECTS=50 \
	FASTCHAT_SOAK_FULL_DISKS=$$(test "$$(id -u)" = 0 && echo 3 || echo 0) \
	FASTCHAT_SOAK_WORKERS=4 FASTCHAT_SOAK_PART_CLIENTS=400 FASTCHAT_SOAK_PART_ROOMS=20 \
	FASTCHAT_SOAK_PART_KILLS=100 FASTCHAT_SOAK_PART_FREEZES=10 FASTCHAT_SOAK_ROLLS=5 \
	$(BIN)/python -m pytest -s tests/adversity $(ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/test.stamp
	$(BIN)/mypy

bench: $(VENV)/bench.stamp
	$(BIN)/python bench/broadcast.py $(ARGS)

build: $(VENV)/test.stamp
	$(BIN)/python -m build --outdir dist

screenshots: $(VENV)/test.stamp chromium
	$(BIN)/python tests/browser/screenshots.py docs/screenshots

# Not part of the tests: npx fetches Lighthouse, once.
lighthouse: $(VENV)/test.stamp chromium
	@$(BIN)/python tests/browser/lighthouse.py build/lighthouse

clean:
	rm -rf build dist $(VENV) src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f src/fastchat/*.so

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "fastchat: Python 3.11 or newer is missing: apt-get install python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fastchat: $(PYTHON) is too old, 3.11 is needed: make PYTHON=python3.11 ..."; exit 1; }
	@command -v $(CC) >/dev/null || \
	  { echo "fastchat: a C compiler is missing: apt-get install gcc libc6-dev"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "fastchat: Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	@test -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
	  { echo "fastchat: Python's headers are missing: apt-get install python3-dev"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/serve.stamp: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/serve.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/bench.stamp: $(VENV)/serve.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

$(VENV)/fuzz.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@

# The hub with bounds checks and assertions, for a second run of its tests.
build/debug/stamp: $(VENV)/test.stamp
	FASTCHAT_DEBUG=1 $(BIN)/python setup.py --quiet build_ext --build-lib build/debug --build-temp build/debug-temp
	@touch $@

# The same under the compiler's address and undefined behaviour sanitizers, for the fuzzers'
# corpus; a compiler without them leaves that test out.
build/sanitized/stamp: build/debug/stamp
	FASTCHAT_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build_ext --build-lib build/sanitized \
	  --build-temp build/sanitized-temp || echo "fastchat: $(CC) has no sanitizers, so the hub is tested without"
	@touch $@

# And with coverage, for the fuzzer itself: that is clang's.
build/fuzz/stamp: build/debug/stamp | clang
	CC=clang FASTCHAT_SANITIZE=address,undefined,fuzzer-no-link $(BIN)/python setup.py --quiet build_ext \
	  --build-lib build/fuzz --build-temp build/fuzz-temp
	@touch $@

# For the fuzzer; Debian has its sanitizers in a package of their own.
clang:
	@echo | clang -shared -fsanitize=address -x c - -o /dev/null 2>/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      clang libclang-rt-dev >/dev/null; } || \
	  { echo "fastchat: clang is missing: apt-get install clang libclang-rt-dev (as root)"; exit 1; }

# For the tests of the page; without it they are skipped, and say so.
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      chromium chromium-headless-shell fonts-liberation fonts-noto-color-emoji >/dev/null; } || \
	  echo "fastchat: no Chromium, so the page is not tested: apt-get install chromium (as root)"

firefox:
	@command -v firefox-esr >/dev/null || command -v firefox >/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      firefox-esr >/dev/null; } || \
	  echo "fastchat: no Firefox, so the page is not tested in it: apt-get install firefox-esr (as root)"
