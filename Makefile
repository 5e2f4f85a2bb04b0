# The verbs of this project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# What Python has compiled is kept (make clean removes it): tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
PY := $(VENV)/bin/python
STAMPS := build/stamps
PACKAGES := clang llvm libbpf-dev libbpf1 linux-libc-dev iproute2 tshark iperf3 iputils-ping traceroute tcpdump curl \
	ethtool nftables bpftool python3-venv procps util-linux udhcpc isc-dhcp-client systemd \
	qemu-system-x86 busybox-static cpio lz4
# Guests of the lab that stand in for each other.
PACKAGES += keepalived
# SCTP for the lab's guests, in user space over raw IP: many kernels have none.
PACKAGES += libusrsctp-examples
# The store of several controllers.
PACKAGES += etcd-server
# Whom `make bench` measures Weft against; nothing else wants it.
BENCH_PACKAGES := openvswitch-switch ovn-central ovn-host
LAB ?= examples/demo.yaml
ONLY ?=
TESTS ?=

.PHONY: help demo test check bench lab setup ebpf clean root

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: root setup ## three hosts, two tenants with the same addresses: everything shown, and checked
	@$(PY) -m weft.lab.demo

test: root setup $(STAMPS)/issuer ## every test, on real network namespaces and eBPF (TESTS=path runs some)
	@$(PY) -m pytest -n 2 --dist loadgroup $(TESTS)

check: setup ## format, lint, types, layers, unit and property tests, in under a minute
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(PY) -m pytest -q -n 2 --dist worksteal --hypothesis-profile quick tests/unit tests/properties

bench: root setup $(STAMPS)/bench-packages ## the figures, to build/bench.json (ONLY=tcp,pps runs some)
	@PYTHONPATH=src:. $(PY) -m bench $(if $(ONLY),--only $(ONLY))

lab: root setup ## bring up a lab and leave it running (LAB=examples/demo.yaml)
	@$(VENV)/bin/weft lab up $(LAB)

setup: $(STAMPS)/packages $(STAMPS)/venv $(STAMPS)/ebpf ## install what is missing: apt packages, .venv, compiled eBPF

clean: ## take down every lab; remove build/, caches and .venv
	@if [ -x $(VENV)/bin/weft ] && [ "$$(id -u)" = 0 ]; then $(VENV)/bin/weft lab down --all; fi
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f src/weft/dataplane/ebpf/*.bpf.o

root:
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "this needs root: it makes network namespaces and loads eBPF programs. Try: sudo make $(MAKECMDGOALS)" >&2; exit 1; fi

# Each stamp is made once, and again when what it rests on changes.
define install # of the packages in $(1), those that are missing
	@mkdir -p $(@D)
	@missing=(); for each in $(1); do \
	  [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$each 2>/dev/null)" = installed ] || missing+=($$each); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  if [ "$$(id -u)" != 0 ]; then echo "missing packages, and not root: sudo apt-get install $${missing[*]}" >&2; exit 1; fi; \
	  echo "apt: installing $${missing[*]}"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get -o DPkg::Lock::Timeout=300 update -q >build/apt.log 2>&1 && \
	  apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $${missing[*]} >>build/apt.log 2>&1 || \
	    { tail -n 20 build/apt.log >&2; exit 1; }; \
	fi
	@touch $@
endef

$(STAMPS)/packages: Makefile
	$(call install,$(PACKAGES))

$(STAMPS)/bench-packages: Makefile
	$(call install,$(BENCH_PACKAGES))

$(STAMPS)/venv: pyproject.toml constraints.txt hatch_build.py src/weft/dataplane/ebpf/build.py | $(STAMPS)/packages
	@mkdir -p $(@D)
	@python=$$(command -v python3.11 || command -v python3) || { echo "Python 3.11 or newer is needed" >&2; exit 1; }; \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$python is $$($$python --version); 3.11 or newer is needed" >&2; exit 1; }; \
	[ -x $(PY) ] || { echo "$(VENV): a virtual environment of $$($$python --version)"; $$python -m venv $(VENV); }
	@echo "pip: installing Weft and what it needs into $(VENV)"
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# An OpenID Connect issuer that we did not write, for its tests; apart from ours, which want none of what it needs.
$(STAMPS)/issuer: | $(STAMPS)/venv
	@echo "pip: installing an OpenID Connect issuer for the tests into build/issuer"
	@$(PY) -m venv build/issuer
	@build/issuer/bin/python -m pip install -q --disable-pip-version-check oidc-provider-mock==0.3.4
	@touch $@

$(STAMPS)/ebpf: $(wildcard src/weft/dataplane/ebpf/c/*) src/weft/policy/drop.py src/weft/policy/upcall.py src/weft/dataplane/ebpf/build.py | $(STAMPS)/venv
	@echo "clang: compiling the eBPF programs"
	@$(PY) -c 'from weft.dataplane.ebpf.build import compile_programs; compile_programs()'
	@touch $@
