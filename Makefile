# Every target does the set-up that it needs; the second time that takes seconds.
# `make` alone prints this list.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

BIN    := target/x86_64-unknown-linux-gnu/release
AGENT  := target/x86_64-unknown-linux-gnu/guest/podvmm-agent
STEP   := tests/tools/step
ONKVM  := tests/lab/on-kvm
PREFIX ?= /usr/local

export PODVMM_GUEST_DIR ?= $(CURDIR)/build/guest

.PHONY: help setup kernel agent guest build dist install uninstall lab-ready cri-ready cluster-ready run test test-all cri cluster lint audit bench bench-cri fuzz guards syscalls coverage miri lab clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the packages that building needs (with sudo if not root)
	@tests/tools/setup build

kernel: setup ## build the guest kernel, or take it from the cache
	@$(STEP) "guest kernel (minutes the first time)" guest-kernel-config/build

agent: setup
	@$(STEP) "agent" cargo build --quiet --locked --profile guest -p podvmm-agent

guest: kernel agent ## build everything that runs in the guest: kernel and initramfs
	@$(STEP) "initramfs" guest-kernel-config/initramfs $(AGENT)

build: setup ## build podvmm and its VMM process
	@$(STEP) "podvmm (release)" cargo build --quiet --locked --release -p podvmm -p podvmm-sandbox -p podvmm-shim --bins
	@$(STEP) "kvm-probe" cargo build --quiet --locked -p podvmm-tests --bin kvm-probe

dist: guest build ## pack build/podvmm.tar.gz, which is all that a node needs
	@$(STEP) "archive for nodes" tests/tools/dist build/podvmm.tar.gz

# As root. What is built as somebody else is not built again.
install: ## put podvmm on this machine, below PREFIX and into containerd
	@test -x $(BIN)/containerd-shim-podvmm-v2 && test -f $(PODVMM_GUEST_DIR)/initramfs || \
	  { echo "make guest build first; installing builds nothing" >&2; exit 1; }
	@$(BIN)/podvmm install --prefix $(PREFIX) --root $(or $(DESTDIR),/) $(INSTALL_OPTIONS)

uninstall: ## take it out again
	@$(BIN)/podvmm uninstall --prefix $(PREFIX) --root $(or $(DESTDIR),/)

# The lab's packages are installed only where this machine's KVM does not do.
lab-ready: build
	@tests/tools/setup lab-if-needed

cri-ready: setup
	@tests/tools/setup cri

cluster-ready: cri-ready
	@tests/tools/setup cluster

run: guest build lab-ready ## run a command in a pod of its own, and show that the kernels differ
	@tests/tools/demo

test: guest build lab-ready cri-ready ## run all checks and tests; ends in a summary
	@tests/tools/check all

test-all: guest build lab-ready cluster-ready ## the same with all CRI tests, later containerds and a cluster; an hour more in the lab
	@tests/tools/check lint audit unit e2e cri newer cluster

cri: guest build lab-ready cri-ready ## run the CRI tests: containerd, runc and podvmm
	@tests/tools/check cri

cluster: dist lab-ready cluster-ready ## podvmm in a Kubernetes cluster: installed by the DaemonSet, pods, away again
	@tests/tools/check cluster

lint: setup ## formatting, clippy and documentation
	@tests/tools/check lint

audit: setup ## licences, sources and banned crates; advisories where they can be had
	@tests/tools/check audit

bench-cri: guest build lab-ready cri-ready ## print what pods cost under containerd, by runc and podvmm
	@tests/tools/bench-cri

bench: guest build lab-ready ## print the benchmark table and write build/bench.json
	@tests/tools/bench

fuzz: setup ## fuzz each target for FUZZ_SECONDS (60); needs rustup's nightly compiler
	@tests/tools/fuzz $(or $(FUZZ_SECONDS),60)

guards: setup ## take each guard out in turn and see that its tests fail
	@tests/tools/guards

syscalls: guest build lab-ready ## compare the system calls that VMM processes make with their lists
	@tests/tools/syscalls

coverage: setup ## print how much of the devices their tests execute, and write build/coverage; needs llvm-tools
	@tests/tools/coverage

miri: setup ## run the pure parts of the devices under Miri; needs rustup's nightly compiler
	@tests/tools/miri

lab: setup ## run CMD='...' in the lab
	@test -n "$(CMD)" || { echo "usage: make lab CMD='command'" >&2; exit 2; }
	@tests/tools/setup lab
	@tests/lab/lab -- bash -c '$(subst ','\'',$(CMD))'

clean: ## remove what was built; caches outside the checkout stay
	rm -rf build target
