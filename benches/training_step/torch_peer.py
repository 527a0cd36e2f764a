"""PyTorch's training step, eager, with the fused AdamW: torch_peer.py THREADS mlp|decoder"""
import os
import sys

THREADS, MODEL = int(sys.argv[1]), sys.argv[2]
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)

import torch
import torch.nn.functional as F
from torch import nn

import protocol

torch.set_num_threads(THREADS)
torch.set_num_interop_threads(1)
torch.manual_seed(0)


def mlp():
    net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    x, labels = torch.randn(128, 784), torch.randint(0, 10, (128,))
    return net, lambda: F.cross_entropy(net(x), labels)


class Layer(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.width, self.heads = width, heads
        self.n1, self.qkv, self.o = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.n2, self.f1, self.f2 = nn.LayerNorm(width), nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, h):
        batch, length, width = h.shape
        split = lambda z: z.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        q, k, v = (split(z) for z in self.qkv(self.n1(h)).split(width, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.o(mixed.transpose(1, 2).reshape(batch, length, width))
        return h + self.f2(F.gelu(self.f1(self.n2(h)), approximate="tanh"))


class Decoder(nn.Module):
    def __init__(self, length, width, heads, layers, vocabulary, inner):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = nn.Sequential(*(Layer(width, heads, inner) for _ in range(layers)))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, x):
        return self.head(self.last(self.layers(self.embedding(x) + self.positions)))


def decoder():
    net = Decoder(128, 256, 4, 4, 256, 1024)
    x, labels = torch.randint(0, 256, (16, 128)), torch.randint(0, 256, (16, 128))
    return net, lambda: F.cross_entropy(net(x).view(-1, 256), labels.view(-1))


net, loss = {"mlp": mlp, "decoder": decoder}[MODEL]()
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01, fused=True)


def step():
    loss().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


protocol.serve(f"torch {torch.__version__}", THREADS, step)
