"""JAX's training step, jitted, with donated state: jax_peer.py THREADS mlp|decoder"""
import os
import sys

THREADS, MODEL = int(sys.argv[1]), sys.argv[2]
if THREADS == 1:
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
os.environ["NPROC"] = str(THREADS)

import jax
import jax.numpy as jnp
import numpy

import protocol

jax.config.update("jax_platforms", "cpu")
random = numpy.random.default_rng(0)


def normal(deviation, *shape):
    return jnp.asarray(random.standard_normal(shape).astype(numpy.float32) * deviation)


def linear(inner, outer):
    return {"w": normal(inner**-0.5, inner, outer), "b": jnp.zeros(outer)}


def apply(p, x):
    return x @ p["w"] + p["b"]


def cross_entropy(logits, labels):
    chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - chosen)


def mlp():
    parameters = [linear(784, 512), linear(512, 512), linear(512, 10)]
    x, labels = normal(1, 128, 784), jnp.asarray(random.integers(0, 10, 128))

    def loss(p, x, labels):
        h = jax.nn.relu(apply(p[0], x))
        return cross_entropy(apply(p[2], jax.nn.relu(apply(p[1], h))), labels)

    return parameters, x, labels, loss


def decoder():
    batch, length, width, heads, layers, vocabulary, inner = 16, 128, 256, 4, 4, 256, 1024
    norm = lambda: {"g": jnp.ones(width), "b": jnp.zeros(width)}
    layer = lambda: {
        "n1": norm(),
        "qkv": linear(width, 3 * width),
        "o": linear(width, width),
        "n2": norm(),
        "f1": linear(width, inner),
        "f2": linear(inner, width),
    }
    parameters = {
        "embedding": normal(0.02, vocabulary, width),
        "positions": normal(0.02, length, width),
        "layers": [layer() for _ in range(layers)],
        "last": norm(),
        "head": linear(width, vocabulary),
    }
    x = jnp.asarray(random.integers(0, vocabulary, (batch, length)))
    labels = jnp.asarray(random.integers(0, vocabulary, (batch, length)))
    mask = jnp.asarray(numpy.where(numpy.tril(numpy.ones((length, length))), 0, -1e9).astype(numpy.float32))

    def normalized(p, x):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p["g"] + p["b"]

    def split(z):
        return z.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)

    def loss(p, x, labels):
        h = p["embedding"][x] + p["positions"]
        for l in p["layers"]:
            q, k, v = (split(z) for z in jnp.split(apply(l["qkv"], normalized(l["n1"], h)), 3, -1))
            scores = q @ k.transpose(0, 1, 3, 2) * (width // heads) ** -0.5 + mask
            mixed = (jax.nn.softmax(scores, -1) @ v).transpose(0, 2, 1, 3).reshape(batch, length, width)
            h = h + apply(l["o"], mixed)
            h = h + apply(l["f2"], jax.nn.gelu(apply(l["f1"], normalized(l["n2"], h)), approximate=True))
        return cross_entropy(apply(p["head"], normalized(p["last"], h)), labels)

    return parameters, x, labels, loss


parameters, x, labels, loss = {"mlp": mlp, "decoder": decoder}[MODEL]()


def adamw(p, m, v, t, x, labels):
    value, g = jax.value_and_grad(loss)(p, x, labels)
    t = t + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
    c1, c2 = 1 - 0.9**t, 1 - 0.999**t
    update = lambda p, m, v: p - 1e-3 * ((m / c1) / (jnp.sqrt(v / c2) + 1e-8) + 0.01 * p)
    return jax.tree.map(update, p, m, v), m, v, t, value


jitted = jax.jit(adamw, donate_argnums=(0, 1, 2))
zeros = lambda: jax.tree.map(jnp.zeros_like, parameters)
state = [parameters, zeros(), zeros(), jnp.float32(0)]


def step():
    *state[:], value = jitted(*state, x, labels)
    value.block_until_ready()


protocol.serve(f"jax {jax.__version__}", THREADS, step)
