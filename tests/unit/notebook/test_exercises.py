"""The check of an exercise: which answers are right, and what it prints."""

import numpy as np
import pytest
import torch

from hamsynth_utils.notebook.exercises import RIGHT, UNANSWERED, WRONG, grade, self_check


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (3, 3.0),
        (3.0, 3),
        (np.int64(3), 3),
        (np.float32(3), 3),
        (torch.tensor(3), 3),
        (torch.tensor([3.0]), 3),
        (torch.tensor(3.0, requires_grad=True), 3),
        (np.array([[3]]), 3),
        (3, torch.tensor(3.0)),
        (3.01, 3),
        (True, True),
        (" Supported ", "supported"),
        (("supported", "undecided"), ["supported", "undecided"]),
        ("a, b", ["a", "b"]),
        ([1, torch.tensor(2)], (1.0, 2.0)),
        (torch.ones(2, 3), np.ones((2, 3))),
        ([1, 2], np.array([1.0, 2.0])),
        (4, lambda answer: answer % 2 == 0),
    ],
)
def test_a_right_answer_is_right_in_any_form(answer, expected):
    assert grade(answer, expected, "a hint") == RIGHT


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (3.1, 3),
        (-3, 3),
        (300, 3),
        (float("nan"), 3),
        (float("inf"), 3),
        ([3, 3], 3),
        ({}, 3),
        (object(), 3),
        ("supported", "undecided"),
        (1, "undecided"),
        ("a", ["a", "b"]),
        (("b", "a"), ["a", "b"]),
        (["a", None], ["a", "b"]),
        (torch.ones(3, 2), np.ones((2, 3))),
        (1.0, np.ones((2, 3))),
        ([1, float("nan")], [1, 2]),
        (5, [5, 5]),
        (5, lambda answer: answer % 2 == 0),
    ],
)
def test_a_wrong_answer_is_not_right_and_gets_the_hint(answer, expected):
    assert grade(answer, expected, "a hint") == f"{WRONG}: a hint"
    assert grade(answer, expected) == WRONG


def test_an_absent_answer_and_a_text_for_a_number_are_named(capsys):
    for answer in (None, [None, None], (None,)):
        self_check(answer, 3, "a hint")
        assert capsys.readouterr().out == f"{UNANSWERED}: the answer is None\n"
    calls: list[object] = []
    self_check(None, calls.append)
    assert calls == [] and capsys.readouterr().out == f"{UNANSWERED}: the answer is None\n"
    for number in (3, 3.0, np.float64(3), torch.tensor(3.0)):
        assert grade("3", number, "a hint") == f"{WRONG}: a number is asked for, and '3' is text"


def test_a_number_may_differ_by_the_tolerance():
    assert grade(14.4, 14, within=0.5) == grade(100.9, 100) == RIGHT
    assert grade(13.5, 14, within=0) == grade(101.1, 100) == grade(0.01, 0.0) == WRONG
