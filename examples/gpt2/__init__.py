"""Train GPT-2 with any optimizer, and find out which is better: ``python -m examples.gpt2 --help``.

Reading order: ``config`` (what decides a run), ``model`` and ``huggingface`` (the network), ``data`` (tokens and
batches), ``optimizers``, ``curvature`` and ``inputs`` (what is compared), ``processes``, ``sharding``, ``telemetry``,
``loop`` (the training), ``checkpoints``, ``logs`` and ``run`` (one run in its folder), ``progress`` (what is shown),
``compare`` and ``verdict`` (many runs and what follows from them), ``table``, ``arguments`` and ``__main__`` (the
command line), ``shakespeare`` (the experiment of RESULTS.md).
"""
