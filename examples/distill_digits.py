"""The library in thirty lines: a teacher, a student without it, and students distilled from it.

python examples/distill_digits.py
"""

import argparse

from tekapctl.api import distill, evaluate, train_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    epochs = parser.parse_args().epochs
    training = {"batch_size": 32, "optimizer": {"learning_rate": 0.01}}
    # A tenth of the training images for the students: with all of them, the small network needs no teacher.
    few = {"data": {"name": "digits", "train_fraction": 0.1}, "epochs": epochs, **training}

    teacher = train_teacher(model="resnet20", data="digits", epochs=max(1, epochs // 2), **training)
    print(f"teacher:     {teacher['last_top1']:.1%}")
    alone = train_teacher(model="resnet8", **few)
    print(f"alone:       {alone['last_top1']:.1%}")
    kd = distill(teacher=teacher["run"], student="resnet8", method="kd", tekap={"logit": {"teachers": 0}}, **few)
    print(f"KD:          {kd['last_top1']:.1%}")
    tekap = distill(teacher=teacher["run"], student="resnet8", method="kd", **few)
    print(f"KD + TeKAP:  {tekap['last_top1']:.1%}")

    found = evaluate(tekap["run"])["evaluation"]
    print(f"The last student agrees with its teacher on {found['agreement']:.1%} of {found['images']} test images.")


if __name__ == "__main__":
    main()
