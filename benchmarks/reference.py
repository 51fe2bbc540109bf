"""The published procedure of a TeKAP step, the reference that tekapctl is compared with.

Written from the protocol. Images go through PIL one by one in DataLoader workers, which draw each sample's negatives
too; networks run in float32 and give all their feature maps; CRD gathers every sample's K rows from both memory banks;
the augmented teacher runs the whole contrastive loss again; the loss is read back in every step.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tekapctl import models

TEMPERATURE, CRITIC_TEMPERATURE, MOMENTUM, EPSILON = 4.0, 0.07, 0.5, 1e-7


class Samples(Dataset):
    """Images with, for CRD, the numbers of a positive and of K negatives."""

    def __init__(self, samples: int, classes: int, negatives: int) -> None:
        source = np.random.default_rng(0)
        self.images = source.integers(256, size=(samples, 32, 32, 3), dtype=np.uint8)
        self.labels = np.arange(samples) % classes
        self.negatives = negatives
        self.others = [np.flatnonzero(self.labels != label) for label in range(classes)]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[object, ...]:
        image = self.transform(Image.fromarray(self.images[index]))
        label = int(self.labels[index])
        if not self.negatives:
            return image, label, index
        return image, label, index, draw(index, self.others[label], self.negatives)


def draw(index: int, others: np.ndarray, negatives: int) -> np.ndarray:
    """A sample's number and those of its negatives."""
    replace = negatives > len(others)
    return np.hstack(([index], np.random.choice(others, negatives, replace=replace)))


class Contrast(nn.Module):
    """CRD as published: projections, two memory banks, and a loss for each side."""

    def __init__(self, student_width: int, teacher_width: int, samples: int, negatives: int, width: int = 128) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student_width, width)
        self.embed_teacher = nn.Linear(teacher_width, width)
        bound = (width / 3) ** -0.5
        for side in ("student", "teacher"):
            self.register_buffer(f"bank_{side}", torch.rand(samples, width) * 2 * bound - bound)
        self.normalizers = [-1.0, -1.0]
        self.samples, self.negatives, self.width = samples, negatives, width

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, drawn: Tensor) -> Tensor:
        """The loss; updates both banks."""
        of_student = F.normalize(self.embed_student(student))
        of_teacher = F.normalize(self.embed_teacher(teacher))
        total = 0.0
        for number, (embedding, bank) in enumerate(((of_student, self.bank_teacher), (of_teacher, self.bank_student))):
            rows = bank.index_select(0, drawn.view(-1)).detach().view(len(drawn), self.negatives + 1, self.width)
            scores = torch.exp(torch.bmm(rows, embedding.unsqueeze(2)) / CRITIC_TEMPERATURE)
            if self.normalizers[number] < 0:
                self.normalizers[number] = (scores.mean() * self.samples).item()
            total = total + self.estimate(scores / self.normalizers[number])
        with torch.no_grad():
            for bank, embedding in ((self.bank_student, of_student), (self.bank_teacher, of_teacher)):
                moved = bank.index_select(0, index) * MOMENTUM + embedding * (1 - MOMENTUM)
                bank.index_copy_(0, index, F.normalize(moved))
        return total

    def estimate(self, scores: Tensor) -> Tensor:
        """Equation 17 of CRD."""
        noise = self.negatives / self.samples
        positive = (scores[:, 0] / (scores[:, 0] + noise + EPSILON)).log()
        negative = (torch.full_like(scores[:, 1:], noise) / (scores[:, 1:] + noise + EPSILON)).log()
        return -(positive.sum() + negative.sum()) / len(scores)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Hinton's KD."""
    log_student = F.log_softmax(student / TEMPERATURE, dim=1)
    return F.kl_div(log_student, F.softmax(teacher / TEMPERATURE, dim=1), reduction="batchmean") * TEMPERATURE**2


def train(options: argparse.Namespace) -> dict[str, float]:
    """Mean time of a step including the loader, after a few warm-up steps."""
    device = torch.device(options.device)
    has_features = options.level != "logit"
    gamma, alpha, beta = {"logit": (0.1, 0.9, 0.0), "feature": (1.0, 0.0, 0.8), "both": (1.0, 1.0, 0.8)}[options.level]
    data = Samples(options.samples, options.classes, options.negatives if has_features else 0)
    loader = DataLoader(data, options.batch_size, shuffle=True, num_workers=options.workers)
    teacher = models.build(options.teacher, options.classes, 3).eval().to(device)
    student = models.build(options.student, options.classes, 3).train().to(device)
    parts = nn.ModuleList([student])
    with torch.no_grad():
        probe = torch.randn(2, 3, 32, 32, device=device)
        widths = [network.knowledge(probe).embedding.shape[1] for network in (student, teacher)]
    contrast = Contrast(*widths, options.samples, options.negatives).to(device)
    if has_features:
        parts.append(contrast)
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    batches = iter(loader)
    began = 0.0
    for step in range(options.warmup + options.steps):
        if step == options.warmup:
            began = time.perf_counter()
        images, labels, index, *drawn = (part.to(device) for part in next(batches))
        of_student = student.knowledge(images)
        with torch.no_grad():
            of_teacher = teacher.knowledge(images)
        logits = of_teacher.logits
        loss = gamma * F.cross_entropy(of_student.logits, labels)
        of_logits = divergence(of_student.logits, logits)
        for _ in range(3):
            of_logits = of_logits + 0.8 * divergence(of_student.logits, 0.9 * logits + 0.1 * torch.randn_like(logits))
        loss = loss + alpha * of_logits
        if has_features:
            embedding = of_teacher.embedding
            noisy = 0.9 * embedding + 0.1 * 0.1 * torch.randn_like(embedding)
            of_features = contrast(of_student.embedding, embedding, index, *drawn)
            of_features = of_features + contrast(of_student.embedding, noisy, index, *drawn)
            loss = loss + beta * of_features
        (of_student.logits.argmax(1) == labels).float().mean().item()
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {"step_seconds": (time.perf_counter() - began) / options.steps}


def contrast_alone(options: argparse.Namespace) -> dict[str, float]:
    """Mean time of CRD's loss on two banks with its sampling and its backward pass, and the memory it adds."""
    data = Samples(64, options.classes, 0)
    labels = np.arange(options.samples) % options.classes
    others = [np.flatnonzero(labels != label) for label in range(options.classes)]
    contrast = Contrast(64, 64, options.samples, options.negatives)
    student, teacher = torch.randn(options.batch_size, 64, requires_grad=True), torch.randn(options.batch_size, 64)
    del data
    before, times = resident(), []
    for step in range(options.warmup + options.steps):
        began = time.perf_counter()
        index = np.random.default_rng(step).choice(options.samples, options.batch_size, replace=False)
        drawn = np.stack([draw(i, others[labels[i]], options.negatives) for i in index.tolist()])
        contrast(student, teacher, torch.from_numpy(index), torch.from_numpy(drawn)).backward()
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"step_seconds": float(np.median(times[options.warmup :])), "extra_bytes": peak - before}


def resident() -> int:
    """Bytes of memory that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", choices=["logit", "feature", "both", "contrast"], default="both")
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--negatives", type=int, default=16_384)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args()
    print(json.dumps(contrast_alone(chosen) if chosen.level == "contrast" else train(chosen)))
