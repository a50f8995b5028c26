# Bulkhead's commands. `make` alone lists them.

PREFIX  ?= /usr/local
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Static and without cgo: the sandbox process re-executes itself in an empty root.
# No VCS stamping: it fails in a tree that belongs to another user.
export CGO_ENABLED = 0
GO_BUILD = go build -buildvcs=false -trimpath -ldflags '-X bulkhead/runtime/program.Commit=$(VERSION) -X bulkhead/hwtest/cli.Commit=$(VERSION) -X bulkhead/vmm/cli.Version=$(VERSION)'
# What every guest gets unpacked into its memory goes without symbols.
GO_BUILD_SMALL = go build -buildvcs=false -trimpath -ldflags '-s -w'

.DEFAULT_GOAL := help
include kernels/kernel.mk
.PHONY: help build test unit e2e fuzz demo bench lint install clean lab test-apps fuzz-table leaks engines dist image kubernetes

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/bulkhead, its containerd shim, bin/vmm, bin/hwtest and the guest's bin/guestinit
	@scripts/need build
	$(GO_BUILD) -o bin/bulkhead ./runtime
	$(GO_BUILD) -o bin/containerd-shim-bulkhead-v1 ./runtime/containerd-shim-bulkhead-v1
	$(GO_BUILD_SMALL) -o bin/guestinit ./guestinit
	$(GO_BUILD) -o bin/vmm ./vmm
	$(GO_BUILD) -o bin/hwtest ./hwtest

test: ## install what is missing, build, lint, fuzz for minutes, run every test
	@scripts/need test
	@$(MAKE) --no-print-directory build lint kernel fuzz
	@scripts/test

unit: ## only the packages' own tests
	go test $$(go list ./... | grep -vE "/test/|/vmm/e2e$$|/hwtest/lab")

e2e: build ## only the tests that run programs, bundles, docker and guests
	@scripts/need test
	go test -count=1 -p 1 -timeout 30m ./test/... ./vmm/e2e ./hwtest/lab/...

fuzz: ## every fuzz target of what reads hostile bytes, half a minute each
	@scripts/fuzz

fuzz-table: build ## programs against the table of system calls for minutes, then with the race detector
	@scripts/need test
	scripts/fuzz 300 test/table
	@# The race detector needs cgo; GORACE reaches the sandbox (runtime/sandbox).
	CGO_ENABLED=1 go build -race -buildvcs=false -o out/bulkhead-race ./runtime
	BULKHEAD=$(CURDIR)/out/bulkhead-race scripts/fuzz 300 test/table

leaks: build ## 2,000 cycles in one sandbox, and 2,000 sandboxes: flat memory, and nothing left (an hour)
	@scripts/need test
	BULKHEAD_CYCLES=2000 go test -count=1 -timeout 120m -v -run 'TestLeaks' ./test/oci

engines: build ## sessions of Podman, rootful and rootless, beside runc's (minutes)
	@scripts/need engines
	BULKHEAD_SLOW=1 go test -count=1 -timeout 60m -v ./test/podman

demo: build ## run a program behind each wall, on each platform of this host (the first time it builds a guest kernel)
	@scripts/demo sentry
	@$(MAKE) --no-print-directory kernel
	@scripts/demo vm

lab: build ## the slow tests of microVMs in the lab, and vmm beside QEMU microvm and gokvm
	@scripts/need test
	BULKHEAD_SLOW=1 go test -count=1 -p 1 -timeout 240m -v ./vmm/e2e
	BULKHEAD_SLOW=1 go test -count=1 -timeout 120m -v -run '^(TestRun|TestRefusals|TestTerminal|TestLogsAndExec|TestStopAndKill|TestPauseStatsInspect|TestOOM|TestTwenty)$$/^bulkhead-vm$$' ./test/docker
	BULKHEAD_SLOW=1 go test -count=1 -timeout 60m -v -run '^TestMachines$$' ./test/containerd
	BULKHEAD_SLOW=1 go test -count=1 -timeout 40m -v -run '^TestProgramsInMachine$$' ./test/programs
	@scripts/compare

test-apps: build ## run the software that people run, natively and in the sandbox, and print a table (an hour)
	@scripts/need apps
	@scripts/sources
	BULKHEAD_SLOW=1 go test -count=1 -timeout 30m ./test/differential
	@go run ./test/apps $(APPS)

bench: build ## compare native, our platforms and the runtimes on PATH
	@scripts/need bench
	@go run ./test/bench $(BENCH)

lint: ## gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	go vet ./...
	go tool staticcheck ./...

install: build ## install the programs to PREFIX (/usr/local)
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin bin/bulkhead bin/containerd-shim-bulkhead-v1 bin/vmm bin/hwtest
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/libexec/bulkhead bin/guestinit
	@[ ! -e bin/vmlinux ] || install -v -D -m 0644 -t $(DESTDIR)$(PREFIX)/libexec/bulkhead bin/vmlinux

dist: build kernel ## a tarball and a Debian package in out/dist, with manual pages, completions and SBOM; the same bytes every time
	@scripts/dist

image: build kernel ## the image with which a DaemonSet installs the runtime on Kubernetes' nodes (deploy/README.md)
	$(GO_BUILD_SMALL) -o bin/installer ./deploy/installer
	@go run ./deploy/installer/image

kubernetes: image ## a real cluster on this machine, and what people do with one, in the sandbox (deploy/e2e; the first time it builds Kubernetes)
	@scripts/need kubernetes
	@go run ./deploy/e2e $(E2E)

clean: ## remove what the other targets made
	rm -rf bin out
