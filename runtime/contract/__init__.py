"""The contract between generated modules and the runtime: rules and kernels, hypers, precisions."""
