"""The library in thirty lines: a teacher, a student without it, and students distilled from it.

python examples/distill_digits.py
"""

import argparse

from tekapctl.api import distill, evaluate, train_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs
    # A third of the training images for the students: with all of them, the small network needs no teacher.
    few = {"data": {"name": "digits", "train_fraction": 0.3}, "epochs": epochs}

    teacher = train_teacher(model="resnet20", data="digits", epochs=epochs)
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
