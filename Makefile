# Bulkhead's commands. `make` alone lists them.

PREFIX  ?= /usr/local
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Static and without cgo: the sandbox process re-executes itself in an empty root.
# No VCS stamping: it fails in a tree that belongs to another user.
export CGO_ENABLED = 0
GO_BUILD = go build -buildvcs=false -trimpath -ldflags '-X bulkhead/runtime/cli.Commit=$(VERSION)'

.DEFAULT_GOAL := help
.PHONY: help build test unit e2e fuzz demo bench lint install clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/bulkhead
	@scripts/need build
	$(GO_BUILD) -o bin/bulkhead ./runtime

test: ## install what is missing, build, lint, fuzz for a minute, run every test
	@scripts/need test
	@$(MAKE) --no-print-directory build lint fuzz
	@scripts/test

unit: ## only the packages' own tests
	go test $$(go list ./... | grep -v /test/)

e2e: build ## only the tests that run programs, bundles and docker in the sandbox
	@scripts/need test
	go test -count=1 -p 1 -timeout 20m ./test/...

fuzz: ## every fuzz target of the loader, the config and the gofer's protocol, a minute in all
	@scripts/fuzz 60

demo: build ## run a program in a sandbox on each platform of this host
	@scripts/demo

bench: build ## compare native, our platforms and the runtimes on PATH
	@scripts/need bench
	@go run ./test/bench $(BENCH)

lint: ## gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	go vet ./...
	go tool staticcheck ./...

install: build ## install bulkhead to PREFIX (/usr/local)
	install -D -m 0755 bin/bulkhead $(DESTDIR)$(PREFIX)/bin/bulkhead

clean: ## remove what the other targets made
	rm -rf bin out
