"""Where scoring a batch against the whole memory bank beats gathering the drawn entries: the ratio of both times.

Prints, for banks of growing length and a fixed number of negatives, the time of the gathering path over that of the
whole-bank path, loss and gradient together, alternating in one process. Above 1 the whole bank is faster.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from tekapctl.distillation.methods.crd import contrast as module


def seconds(bank: torch.Tensor, embeddings: torch.Tensor, drawn: torch.Tensor, sparse_from: int) -> float:
    module.SPARSE = sparse_from
    began = time.perf_counter()
    losses, _ = module.contrast(embeddings, bank, drawn, torch.tensor(1000.0), 0.07)
    losses.sum().backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--negatives", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    embeddings = F.normalize(torch.randn(1, options.batch, options.width), dim=2).requires_grad_()
    for ratio in (2, 4, 8, 16, 32, 64, 128):
        samples = ratio * (options.negatives + 1)
        bank = F.normalize(torch.randn(samples, options.width), dim=1)
        drawn = torch.randint(samples, (options.batch, options.negatives + 1)).sort(1).values
        pairs = [
            (seconds(bank, embeddings, drawn, 0), seconds(bank, embeddings, drawn, 10**9))
            for _ in range(options.repeats + 1)
        ][1:]
        print(
            f"bank of {ratio:3} x draws: gathering takes {statistics.median(a / b for a, b in pairs):.2f} x whole bank"
        )


if __name__ == "__main__":
    main()
