"""Small mistakes made on purpose, in specs and in references, to see whether the fuzzer finds them."""
