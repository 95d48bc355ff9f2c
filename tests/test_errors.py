"""What a user reads when the input is wrong."""

from __future__ import annotations

from slicemamba.errors import InputError, name_some


def test_details_follow_the_sentence_a_line_each() -> None:
    error = InputError("two masks are missing", pointer="/data/root", details=["a.png", "b.png"])
    assert str(error) == "two masks are missing\n  - a.png\n  - b.png"
    assert (error.message, error.pointer) == ("two masks are missing", "/data/root")
    assert str(InputError("no more to say")) == "no more to say"


def test_input_error_is_a_value_error() -> None:
    assert isinstance(InputError("wrong"), ValueError)


def test_a_few_names_are_shown_and_the_rest_counted() -> None:
    names = [f"{i}.png" for i in range(7)]
    assert name_some(names[:2]) == "0.png, 1.png"
    assert name_some(names[:5]) == "0.png, 1.png, 2.png, 3.png, 4.png"
    assert name_some(names) == "0.png, 1.png, 2.png, 3.png, 4.png and 2 more"
    assert name_some(names, limit=1) == "0.png and 6 more"
