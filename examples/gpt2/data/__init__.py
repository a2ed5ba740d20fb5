"""Where the tokens come from: ``load_corpus`` turns a ``DataConfig`` into a ``Corpus``, ``draw_batch`` draws from it.

Reading order: ``corpus`` (the way from a configuration to tokens), ``texts`` (text files and their split),
``tokenizer`` and ``encoded`` (characters and pairs of bytes, encoded once), ``binary`` (tokens prepared elsewhere),
``tokens`` and ``sampling`` (stretches of tokens and batches of them), ``files`` and ``errors``.
"""

from examples.gpt2.data.corpus import Corpus, load_corpus
from examples.gpt2.data.errors import TextError
from examples.gpt2.data.sampling import Batch, draw_batch, share_batch, spread_batches
from examples.gpt2.data.tokens import Tokens

__all__ = ["Batch", "Corpus", "TextError", "Tokens", "draw_batch", "load_corpus", "share_batch", "spread_batches"]
