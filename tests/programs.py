"""How programs are compiled that are only compared with another implementation, to a tolerance."""

import functools

import jax

from lossjax.training.program import QUICKLY_COMPILED

# The same operations as ever, but LLVM's least thorough level above none: a third of the time. For what is compared to
# the last bit, and for what a population runs, ``jax.jit`` as it is.
quickly = functools.partial(jax.jit, compiler_options=QUICKLY_COMPILED.get(jax.default_backend()))
