/*
 * PID 1 of the comparison: its first act is a port write that the trace shows on every VMM alike,
 * the second ends the machine. The byte is what Cloud Hypervisor takes as power off at this port;
 * the others have nothing there.
 */
static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	call(172, 3, 0, 0); /* iopl */
	__asm__ volatile("outb %0, %1" : : "a"((unsigned char)0x34), "d"((unsigned short)0x600));
	call(169, 0xfee1dead, 672274793, 0x1234567); /* reboot: restart */
	for (;;)
		;
}
