# `make serve` and `make test` do their own set-up: see `make help`.

PYTHON ?= python3
CC ?= cc
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py clients/python/pyproject.toml $(wildcard src/fastchat/_buffers.py* src/fastchat/_codec.py* src/fastchat/_fanout.py* src/fastchat/fanout/*.pxi)
# Arguments for the command: make serve ARGS="--port 9000"
ARGS ?=
FUZZ_SECONDS ?= 60
# Tests start hundreds of servers. Without stored bytecode, each of them would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE
# Tests that load the machine and compare timings: nothing else runs at the same time.
ALONE := tests/threats/test_threats_floods.py tests/server/test_flood.py

# A part of the tests needs only what it uses: browsers, or the builds that replay the fuzzers' corpus.
ifeq ($(ARGS),)
TEST_NEEDS := lint types build/debug/stamp build/sanitized/stamp chromium firefox nginx prometheus prometheus-alertmanager postgresql pgbouncer haproxy iproute2 node
else
TEST_NEEDS := $(VENV)/test.stamp \
  $(if $(findstring browser,$(ARGS))$(findstring threats,$(ARGS)),chromium firefox) \
  $(if $(findstring tests/ledger,$(ARGS))$(findstring tests/cluster,$(ARGS)),postgresql pgbouncer haproxy iproute2) \
  $(if $(findstring fuzz,$(ARGS)),build/debug/stamp build/sanitized/stamp) \
  $(if $(findstring client,$(ARGS)),node) \
  $(if $(findstring hooks,$(ARGS)),prometheus-alertmanager)
endif

.PHONY: serve check test fuzz conformance soak lint types bench bench-guard profile build screenshots lighthouse chromium firefox nginx prometheus prometheus-alertmanager postgresql pgbouncer haproxy iproute2 node clang clean help
.DEFAULT_GOAL := help

help:
	@echo "make serve        run the chat at http://127.0.0.1:8080  (ARGS=\"--port 9000\")"
	@echo "make check        check style, types and the fast tests, in less than a minute"
	@echo "make test         run every test                         (ARGS=\"tests/unit/chat -x\")"
	@echo "make bench        measure what a broadcast costs         (ARGS=\"--clients 10,100\")"
	@echo "make bench-guard  compare the speed with the last tag     (ARGS=\"--against COMMIT\")"
	@echo "make profile      show where a server spends its time   (ARGS=\"--window 1\")"
	@echo "make conformance  run the Autobahn|Testsuite for RFC 6455 (needs Python 2.7)"
	@echo "make fuzz         feed random bytes to the parsers and the hub (FUZZ_SECONDS=600)"
	@echo "make soak         kill servers, drop clients and fill disks for some minutes"
	@echo "make lighthouse   audit the page with Lighthouse (needs node and npm)"
	@echo "make build        build wheels and source distributions of server and client"
	@echo "make screenshots  take the screenshots of the README again"
	@echo "make lint types   check style; check types"
	@echo "make clean        delete everything that make has built"

serve: $(VENV)/serve.stamp
	@exec $(BIN)/fastchat serve $(ARGS)

# What to run while you work: less than a minute once it is set up.
check: lint
	@$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -q -n 3 --dist worksteal tests/unit $(ARGS); tests=$$?; \
	  wait $$types && exit $$tests

# The files start in the order of their names: those with the longest tests, in tests/adversity, first, and
# those of tests/unit last. By default, xdist starts the files with the most tests first, which are short.
# Many tests wait more than they compute, hence more processes than cores.
test: $(TEST_NEEDS)
ifeq ($(ARGS),)
	$(BIN)/python -m pytest -q -n 6 --dist loadfile --no-loadscope-reorder $(ALONE:%=--ignore=%)
	$(BIN)/python -m pytest $(ALONE)
	FASTCHAT_DEBUG=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/unit/hub tests/unit/membership tests/unit/protocol/test_codec.py \
	  tests/unit/test_buffers.py
else
	$(BIN)/python -m pytest $(ARGS)
endif

# Fuzzes all targets for FUZZ_SECONDS together; ARGS="hub" fuzzes one of them.
fuzz: $(VENV)/fuzz.stamp build/fuzz/stamp
	$(BIN)/python fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

# `make test` runs this suite too if it finds a Python 2.7. ARGS="--cases '5.*'" runs some cases.
conformance: $(VENV)/test.stamp
	$(BIN)/python conformance/run.py $(ARGS)

# Checks the promise while things break: 200 clients in 20 rooms, 50 servers killed, 50 disconnects
# a second and, where root can mount small disks, three full ones. Then 20 kills among 20 moves of the
# data directory and 10 restores of an older copy. Then the same as at first for four workers
# with 400 clients: 100 times kill -9 of a worker or the relay. Then the databases of machines: 20 crashes,
# 10 kills, 3 restored backups, and what takes too long for each test run. Then three machines on one
# PostgreSQL with 300 clients and 100 faults of either, and 20 times a standby or a backup that lacks messages.
# At last, the same fault 20 times, and a full queue of notifications, for which 2 GB are written.
soak: $(VENV)/test.stamp postgresql iproute2
	SOAK_CLIENTS=200 SOAK_LIBRARY_CLIENTS=20 SOAK_ROOMS=20 SOAK_KILLS=50 SOAK_DISCONNECTS=50 \
	SOAK_MOVES=20 SOAK_RESTORES=10 SOAK_DISPLACED_KILLS=20 \
	SOAK_FULL_DISKS=$$(test "$$(id -u)" = 0 && echo 3 || echo 0) \
	SOAK_WORKERS=4 SOAK_PART_CLIENTS=400 SOAK_PART_LIBRARY_CLIENTS=20 SOAK_PART_ROOMS=20 \
	SOAK_PART_KILLS=100 SOAK_PART_FREEZES=10 SOAK_ROLLS=5 \
	SOAK_DATABASE_CRASHES=20 SOAK_DATABASE_KILLS=10 SOAK_DATABASE_RESTORES=3 \
	SOAK_MACHINE_CLIENTS=300 SOAK_MACHINE_ROOMS=20 SOAK_MACHINE_FAULTS=100 SOAK_LOSSY_FAULTS=20 \
	SOAK_SPREAD_FAULTS=20 SOAK_WEBHOOK_KILLS=20 SOAK_WEBHOOK_CLIENTS=60 SOAK_REPEATS=20 \
	$(BIN)/python -m pytest -s tests/adversity tests/ledger/test_identity.py tests/ledger/test_survival.py \
	  tests/cluster/test_faults.py tests/cluster/test_leaks.py tests/cluster/test_queue.py $(ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/test.stamp
	$(BIN)/mypy

# Compares the speed with that of an earlier commit: ARGS="--against COMMIT".
bench-guard: $(VENV)/bench.stamp
	$(BIN)/python bench/guard.py $(ARGS)

# Shows the stages of a message and their shares of the time: ARGS="--window 1".
profile: $(VENV)/bench.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[profile]'
	$(BIN)/python bench/profile_server.py $(ARGS)

bench: $(VENV)/bench.stamp
	$(BIN)/python bench/broadcast.py $(ARGS)

build: $(VENV)/test.stamp
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m build --outdir dist clients/python

screenshots: $(VENV)/test.stamp chromium
	$(BIN)/python tests/browser/screenshots.py docs/screenshots

# Not part of the tests: npx downloads Lighthouse.
lighthouse: $(VENV)/test.stamp chromium
	@$(BIN)/python tests/browser/lighthouse.py build/lighthouse

clean:
	rm -rf build dist $(VENV) src/*.egg-info clients/python/src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable clients/python --editable '.[cluster]'
	@touch $@

# It builds the hub as `serve.stamp` does, so a fresh clone that runs the tests builds it once.
$(VENV)/test.stamp: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable clients/python --editable '.[test]'
	@touch $(VENV)/serve.stamp $@

$(VENV)/bench.stamp: $(VENV)/serve.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

$(VENV)/fuzz.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@

# The compiled modules with bounds checks and assertions: their tests run a second time with this build.
build/debug/stamp: $(VENV)/test.stamp
	FASTCHAT_DEBUG=1 $(BIN)/python setup.py --quiet build_ext --build-lib build/debug --build-temp build/debug-temp
	@touch $@

# The debug build with the compiler's address and undefined-behaviour sanitizers, which replays the
# fuzzers' corpus. Without sanitizers in the compiler, that test is skipped.
build/sanitized/stamp: build/debug/stamp
	FASTCHAT_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build_ext --build-lib build/sanitized \
	  --build-temp build/sanitized-temp || echo "fastchat: $(CC) has no sanitizers, so the tests run without them"
	@touch $@

# The sanitized build with coverage, for the fuzzer itself; it needs clang.
build/fuzz/stamp: build/debug/stamp | clang
	CC=clang FASTCHAT_SANITIZE=address,undefined,fuzzer-no-link $(BIN)/python setup.py --quiet build_ext \
	  --build-lib build/fuzz --build-temp build/fuzz-temp
	@touch $@

# The fuzzer needs clang, whose sanitizers are a Debian package of their own.
clang:
	@echo | clang -shared -fsanitize=address -x c - -o /dev/null 2>/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      clang libclang-rt-dev >/dev/null; } || \
	  { echo "fastchat: clang is missing: apt-get install clang libclang-rt-dev (as root)"; exit 1; }

# The tests of the page need Chromium; without it they are skipped, with this reason.
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

# Tests run the server behind nginx, the alerts in promtool, and an Alertmanager that posts. Their packages are unpacked and not
# installed, because installed servers would start.
nginx: PROGRAM := usr/sbin/nginx
prometheus: PROGRAM := usr/bin/promtool
prometheus-alertmanager: PROGRAM := usr/bin/prometheus-alertmanager
nginx prometheus prometheus-alertmanager:
	@command -v $(notdir $(PROGRAM)) >/dev/null || test -x /$(PROGRAM) || test -x build/$@/$(PROGRAM) || \
	  { command -v apt-get >/dev/null && { test "$$(id -u)" != 0 || apt-get update -qq; } && mkdir -p build/$@ && \
	    cd build/$@ && apt-get download -qq $@ 2>/dev/null && dpkg -x $@_*.deb . && rm $@_*.deb; } || \
	  echo "fastchat: no $(notdir $(PROGRAM)), so a test is skipped: apt-get install $@ (as root)"

# The tests start servers of PostgreSQL by themselves. Debian's package would start one as well.
postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	    mkdir -p /etc/postgresql-common && \
	    echo "create_main_cluster = false" >>/etc/postgresql-common/createcluster.conf && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      -o Dpkg::Options::=--force-confold postgresql >/dev/null; } || \
	  echo "fastchat: no PostgreSQL, so the ledger is not tested: apt-get install postgresql (as root)"

# The client in JavaScript is tested in Node 22, and its types by TypeScript. Debian has neither of them.
node:
	@test -x build/node/node_modules/.bin/tsc || \
	  { command -v npm >/dev/null && \
	    npm install --silent --no-save --prefix build/node node@22 typescript@5 >/dev/null 2>&1; } || \
	  echo "fastchat: no Node 22 from npm, so the client is not tested in it: apt-get install npm (as root)"

# Tests cut machines off from PostgreSQL, in networks of their own.
iproute2:
	@command -v ip >/dev/null && command -v tc >/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2 >/dev/null; } || \
	  echo "fastchat: no ip, so no machine is cut off in tests: apt-get install iproute2 (as root)"

# A pool of connections, which the ledger refuses, and a balancer before several machines. Their packages are
# unpacked with the libraries that they need.
pgbouncer: LIBRARIES := libc-\?ares[^ ]*\|libevent-[^ ]*
haproxy: LIBRARIES := liblua[^ ]*\|libopentracing[^ ]*
haproxy: NEEDED := libopentracing-c-wrapper0
pgbouncer haproxy:
	@command -v $@ >/dev/null || test -x /usr/sbin/$@ || test -x build/$@/usr/sbin/$@ || \
	  { command -v apt-get >/dev/null && { test "$$(id -u)" != 0 || apt-get update -qq; } && mkdir -p build/$@ && \
	    cd build/$@ && apt-get download -qq $@ $$(apt-cache depends $@ $(NEEDED) 2>/dev/null | \
	      sed -n 's/.*Depends: \($(LIBRARIES)\)$$/\1/p' | sort -u) 2>/dev/null && \
	    for package in *.deb; do dpkg -x $$package . || exit 1; done && rm *.deb; } || \
	  echo "fastchat: no $@, so a test is skipped: apt-get install $@ (as root)"
