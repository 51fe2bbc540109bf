"""What people read: tables on narrow terminals, and numbers without the digits that nobody knows."""

import re
import sys

from rich.console import Console

from tekapctl.cli import console
from tekapctl.experiments.comparison.groups import field_in_words


def test_a_narrow_table_leaves_out_columns_before_it_breaks_words(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(console, "stdout", Console(highlight=False, width=80))
    label = "resnet8: kd + TeKAP, optimizer.learning_rate 0.01, schedule.name one-cycle"
    numbers = {f"number {i}>": "12345.67" for i in range(5)}
    console.show_table("", [{"method": label, **numbers, "time>": "12 min 34 s"}], optional=("time>",))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("optimizer.learning_rate" in line for line in lines)
    assert lines[2].count("12345.67") == 5
    assert "12 min" not in "".join(lines)


def test_numbers_are_rounded_to_what_is_known_of_them():
    assert field_in_words("alpha", 0.1 + 0.2) == "alpha 0.3"
    assert [console.number(value) for value in (0.1 + 0.2, 1e-7, 3, None)] == ["0.3", "1e-07", "3", "None"]
