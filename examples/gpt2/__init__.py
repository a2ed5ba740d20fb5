"""Train a small GPT-2 on bytes with several optimizers side by side: ``python -m examples.gpt2 --help``.

Reading order: ``model`` (the network), ``data`` (the text and its batches), ``optimizers`` (what is compared, with
which settings), ``loop`` (one training run), ``progress`` and ``report`` (what is shown and written), ``arguments``
and ``__main__`` (the command line). The first four know nothing of files being written or of the terminal.
"""
