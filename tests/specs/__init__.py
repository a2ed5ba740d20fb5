"""The shipped specs: what each computes, beside references, torch and published packages."""
