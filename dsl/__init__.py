"""The spec language: text in, a checked surface tree and diagnostics out.

Knows nothing of tensors, targets or the compiler.
"""
