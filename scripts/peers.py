"""What others need for the same training step. `scripts/bench` runs it, once for each peer and size.

    peers.py PEER SIZES     PEER: bert, encoder (both PyTorch) or jax; see --help

A step is what `mlm bench` calls one: new masks (15 % of the tokens, always as many, because compilers want shapes that
stay), forward, backward, clipping to norm 1, AdamW; full-length random sequences, no dropout. The last line of stdout is
one JSON object.

    bert      Hugging Face's BertForMaskedLM, as it is: logits for every token, of which the loss takes the masked ones
    encoder   nn.TransformerEncoder, BERT's embeddings before it, and its head, on the masked rows only
    jax       the same model in plain JAX, the whole step compiled into one program that updates the weights in place
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

RATE, LR, WEIGHT_DECAY, MAX_NORM, MASK_ID, FIRST_WORD = 0.15, 1e-3, 0.01, 1.0, 4, 5


def torch_step(args: argparse.Namespace) -> tuple[Callable[[], None], str]:
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokens, masked = args.batch_size * args.seq_len, masked_tokens(args)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.word = nn.Embedding(args.vocab_size, args.d_model)
            self.position = nn.Embedding(args.seq_len, args.d_model)
            self.norm = nn.LayerNorm(args.d_model)
            layer = nn.TransformerEncoderLayer(args.d_model, args.heads, args.d_ff, 0.0, "gelu", batch_first=True)
            self.layers = nn.TransformerEncoder(layer, args.layers, enable_nested_tensor=False)
            self.transform = nn.Linear(args.d_model, args.d_model)
            self.transform_norm = nn.LayerNorm(args.d_model)
            self.bias = nn.Parameter(torch.zeros(args.vocab_size))

        def forward(self, input_ids, rows, targets):
            x = self.norm(self.word(input_ids) + self.position.weight)  # [batch, seq, d_model]
            x = self.layers(x).reshape(-1, args.d_model)[rows]  # [masked, d_model]
            x = self.transform_norm(functional.gelu(self.transform(x)))
            return functional.cross_entropy(functional.linear(x, self.word.weight, self.bias), targets)

    def bert():
        import transformers

        config = transformers.BertConfig(
            vocab_size=args.vocab_size, hidden_size=args.d_model, num_hidden_layers=args.layers,
            num_attention_heads=args.heads, intermediate_size=args.d_ff, max_position_embeddings=args.seq_len,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
        return transformers.BertForMaskedLM(config)

    model = (bert() if args.peer == "bert" else Encoder()).train()
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=True)

    def compute_loss(input_ids, rows, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            if args.peer == "encoder":
                return model(input_ids, rows, targets)
            labels = torch.full((tokens,), -100)
            labels[rows] = targets
            return model(input_ids=input_ids, labels=labels.view_as(input_ids)).loss

    forward = torch.compile(compute_loss, dynamic=False) if args.compile else compute_loss
    text = torch.randint(FIRST_WORD, args.vocab_size, (tokens,))

    def step():
        rows = torch.rand(tokens).argsort()[:masked].sort()[0]
        input_ids, targets = text.clone(), text[rows]
        input_ids[rows] = MASK_ID
        loss = forward(input_ids.view(args.batch_size, args.seq_len), rows, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, f"torch {torch.__version__}"


def jax_step(args: argparse.Namespace) -> tuple[Callable[[], None], str]:
    import os

    # XLA has no setting for the number of its threads, but takes the cores that it may use for them.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    import jax
    from jax import numpy as jnp

    d_model, heads, tokens, masked = args.d_model, args.heads, args.batch_size * args.seq_len, masked_tokens(args)
    shape = (args.batch_size, args.seq_len, heads, d_model // heads)
    compute = jnp.bfloat16 if args.precision == "bf16" else jnp.float32

    def linear(key, fan_in, fan_out):
        return {"weight": 0.02 * jax.random.normal(key, (fan_in, fan_out)), "bias": jnp.zeros(fan_out)}

    def norm():
        return {"weight": jnp.ones(d_model), "bias": jnp.zeros(d_model)}

    def init(key):
        keys = iter(jax.random.split(key, 3 + 4 * args.layers))
        layers = [
            {
                "qkv": linear(next(keys), d_model, 3 * d_model), "attention": linear(next(keys), d_model, d_model),
                "attention_norm": norm(), "intermediate": linear(next(keys), d_model, args.d_ff),
                "output": linear(next(keys), args.d_ff, d_model), "output_norm": norm(),
            }
            for _ in range(args.layers)
        ]
        return {
            "word": 0.02 * jax.random.normal(next(keys), (args.vocab_size, d_model)),
            "position": 0.02 * jax.random.normal(next(keys), (args.seq_len, d_model)), "norm": norm(),
            "layers": layers, "transform": linear(next(keys), d_model, d_model), "transform_norm": norm(),
            "bias": jnp.zeros(args.vocab_size),
        }

    def product(x, weight):
        return jnp.matmul(x.astype(compute), weight.astype(compute)).astype(jnp.float32)

    def apply(layer, x):
        return product(x, layer["weight"]) + layer["bias"]

    def normalise(layer, x):
        x = x - x.mean(-1, keepdims=True)
        return layer["weight"] * x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-12) + layer["bias"]

    def gelu(x):
        return jax.nn.gelu(x, approximate=False)

    def compute_loss(params, input_ids, rows, targets):
        x = normalise(params["norm"], params["word"][input_ids].reshape(args.batch_size, args.seq_len, d_model) + params["position"])
        for layer in params["layers"]:
            query, key, value = (part.reshape(shape) for part in jnp.split(apply(layer["qkv"], x), 3, -1))
            scores = jnp.einsum("bqhd,bkhd->bhqk", query.astype(compute), key.astype(compute)).astype(jnp.float32)
            probabilities = jax.nn.softmax(scores / math.sqrt(shape[-1])).astype(compute)
            context = jnp.einsum("bhqk,bkhd->bqhd", probabilities, value.astype(compute)).reshape(x.shape)
            x = normalise(layer["attention_norm"], x + apply(layer["attention"], context))
            x = normalise(layer["output_norm"], x + apply(layer["output"], gelu(apply(layer["intermediate"], x))))
        x = x.reshape(-1, d_model)[rows]
        x = normalise(params["transform_norm"], gelu(apply(params["transform"], x)))
        logits = product(x, params["word"].T) + params["bias"]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1).mean()

    def step(state, text):
        params, first, second, key, count = state
        key, draw = jax.random.split(key)
        rows = jnp.sort(jax.random.permutation(draw, tokens)[:masked])
        targets = text[rows]
        gradients = jax.grad(compute_loss)(params, text.at[rows].set(MASK_ID), rows, targets)
        norm_of_all = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
        factor = jnp.minimum(1.0, MAX_NORM / (norm_of_all + 1e-6))
        count = count + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * factor * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * (factor * g) ** 2, second, gradients)
        update = lambda w, m, v: (1 - LR * WEIGHT_DECAY) * w - LR * (m / (1 - 0.9**count)) / (
            jnp.sqrt(v / (1 - 0.999**count)) + 1e-8
        )
        return jax.tree.map(update, params, first, second), first, second, key, count

    step = jax.jit(step, donate_argnums=0)
    params = init(jax.random.key(0))
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros(), zeros(), jax.random.key(1), jnp.zeros(()))
    text = jax.random.randint(jax.random.key(2), (tokens,), FIRST_WORD, args.vocab_size)

    def run():
        nonlocal state
        state = step(state, text)
        jax.block_until_ready(state)

    return run, f"jax {jax.__version__}"


def masked_tokens(args: argparse.Namespace) -> int:
    return max(1, round(RATE * args.batch_size * (args.seq_len - 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["bert", "encoder", "jax"])
    parser.add_argument("--compile", action="store_true", help="torch.compile; JAX always compiles")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    for name, value in [("vocab-size", 1000), ("d-model", 64), ("layers", 2), ("heads", 4), ("d-ff", 256),
                        ("batch-size", 8), ("seq-len", 32), ("steps", 300), ("threads", 2)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    step, version = (jax_step if args.peer == "jax" else torch_step)(args)
    times = []
    for _ in range(max(10, args.steps // 10) + args.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    median = statistics.median(times[-args.steps :])
    print(json.dumps({
        "version": version,
        "ms_per_step_median": 1e3 * median,
        "tokens_per_second": args.batch_size * args.seq_len / median,
    }))


if __name__ == "__main__":
    main()
