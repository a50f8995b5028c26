# Guest kernels, kept outside the tree (kernels/README.md). Included by the Makefile.

.PHONY: kernel kernel-debian

kernel: ## build our guest kernel from Debian's linux-source; the second time it is there already
	@scripts/need kernel
	@go run ./kernels build

kernel-debian: ## unpack Debian's cloud kernel and the modules that a guest needs
	@go run ./kernels debian
