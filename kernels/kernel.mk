# Guest kernels, kept outside the tree (kernels/README.md). Included by the Makefile.

.PHONY: kernel kernel-debian

kernel: ## build our guest kernel from Debian's linux-source; the second time it is there already
	@scripts/need kernel
	@mkdir -p bin && go run ./kernels build >bin/kernel.txt && cat bin/kernel.txt && \
		ln -sfn "$$(awk '$$1 == "elf" {print $$2}' bin/kernel.txt)" bin/vmlinux && rm bin/kernel.txt

kernel-debian: ## unpack Debian's cloud kernel and the modules that a guest needs
	@go run ./kernels debian
