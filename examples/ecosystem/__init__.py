"""A generated optimizer in other people's training loops, each in a file that can be run by itself.

``python -m examples.ecosystem.trainer`` (Hugging Face Trainer), ``.lightning_loop``, ``.accelerate_loop``, ``.amp``
(plain torch with float16 and a GradScaler) and ``.compiled`` (a step under ``torch.compile``). The first three need
the extra ``ecosystem``, and so do ``.schedule_free_trainer``, ``.schedule_free_lightning`` and
``.schedule_free_accelerate``, which evaluate the averaged weights of a Schedule-Free method. ``problem`` holds what
they share: a tiny GPT-2 and rows of tokens. Nothing is downloaded.
"""
