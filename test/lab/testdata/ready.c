/* The whole user space of a guest whose boot is measured: one byte on the
 * console says that init runs. No libc, so that the initramfs is one page. */
static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	static const char ready = 0x06; /* nothing that a kernel prints */
	call(1, 1, (long)&ready, 1); /* write */
	for (;;)
		call(34, 0, 0, 0); /* pause */
}
