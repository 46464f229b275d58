"""The machine's own speeds: the best float32 matrix product and the rate of tanh in the cache, with all cores."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from speed.workers import Work, timed

SIZE = 2048  # of the matrices, as BENCHMARKS.md has it
LENGTH, CALLS = 16_384, 1_000  # numbers, 64 KiB: in the second-level cache; calls of tanh on them


class Peaks:
    """Floating-point operations, and tanh values, of a repetition."""

    def __init__(self, cores: int) -> None:
        jax.config.update("jax_num_cpu_devices", cores)
        self.devices = jax.devices("cpu")
        square = np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32)
        self.square = jax.device_put(square, self.devices[0])
        self.product = jax.jit(lambda a: a @ a)
        numbers = jnp.linspace(-3.0, 3.0, LENGTH, dtype=jnp.float32)
        self.numbers = [jax.device_put(numbers, device) for device in self.devices]
        self.tanhs = jax.jit(lambda x: jax.lax.fori_loop(0, CALLS, lambda _, x: jnp.tanh(x), x))

    def prepare_xla(self) -> dict[str, Any]:
        for _ in range(2):
            self.repeat_xla()
        return {}

    def repeat_xla(self) -> Work:
        """XLA's product; the faster of two, as an upper bound is wanted."""
        works = []
        for _ in range(2):
            with timed() as clock:
                jax.block_until_ready(self.product(self.square))
            works.append(Work(2.0 * SIZE**3, *clock))
        return min(works, key=lambda work: work.stop - work.start)

    def prepare_blas(self) -> dict[str, Any]:
        self.host = np.array(self.square)
        self.repeat_blas()
        return {}

    def repeat_blas(self) -> Work:
        """The product of the BLAS that NumPy comes with."""
        works = []
        for _ in range(2):
            with timed() as clock:
                self.host @ self.host
            works.append(Work(2.0 * SIZE**3, *clock))
        return min(works, key=lambda work: work.stop - work.start)

    def prepare_tanh(self) -> dict[str, Any]:
        self.repeat_tanh()
        return {}

    def repeat_tanh(self) -> Work:
        with timed() as clock:
            # one call a device, all under way at the same time
            jax.block_until_ready([self.tanhs(numbers) for numbers in self.numbers])
        return Work(float(LENGTH * CALLS * len(self.numbers)), *clock)
