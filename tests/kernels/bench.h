static int bench(const char *only) { (void)only; return 0; }
