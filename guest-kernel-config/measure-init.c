/* PID 1 of a measurement: prints the time stamp counter (8 hex digits) on the serial port and stops. */
static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

static void put(char c)
{
	__asm__ volatile("outb %0, %1" : : "a"(c), "Nd"((unsigned short)0x3f8));
}

void _start(void)
{
	unsigned int low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	call(172, 3, 0, 0, 0); /* iopl */
	for (int shift = 28; shift >= 0; shift -= 4)
		put("0123456789abcdef"[(low >> shift) & 15]);
	put('\n');
	call(169, 0xfee1dead, 672274793, 0x1234567, 0); /* reboot: restart */
	for (;;)
		;
}
