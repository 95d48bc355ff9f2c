"""What a user reads when the input is wrong."""

from __future__ import annotations

import contextlib
import copy
import importlib
import pickle
import pkgutil
from http import HTTPStatus

import cloudpickle

import api
import cluster
import nas
import slicemamba
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


def our_errors() -> list[type[BaseException]]:
    """Every class of an error that the packages define."""
    packages = (slicemamba, nas, cluster, api)
    names = [info.name for one in packages for info in pkgutil.walk_packages(one.__path__, f"{one.__name__}.")]
    for name in names:
        if "migrations" not in name:
            with contextlib.suppress(ImportError):  # kernels of a GPU that is not here
                importlib.import_module(name)
    found, open_classes = [], [BaseException]
    while open_classes:
        subclasses = open_classes.pop().__subclasses__()
        open_classes += subclasses
        found += [one for one in subclasses if one.__module__.partition(".")[0] in {each.__name__ for each in packages}]
    return sorted(set(found), key=str)


def an_error(kind: type[BaseException]) -> BaseException:
    from api.client.connection import ApiError
    from api.schemas import Finding, Problem
    from api.server.problems import ProblemError
    from slicemamba.data.findings import BadFileError, Fault

    if kind is InputError:
        return InputError("no such set", pointer="/data", details=["a.png", "b.png"])
    if kind is BadFileError:
        return BadFileError(Fault.BROKEN, "a.png")
    if kind is ApiError:
        return ApiError(Problem(title="Conflict", status=409, detail="in use", instance="/v1", errors=[]))
    if kind is ProblemError:
        return ProblemError(HTTPStatus.CONFLICT, "in use", [Finding(pointer="/a", detail="b")], {"Allow": "GET"})
    return kind("what is wrong")


def test_every_error_of_ours_crosses_processes() -> None:
    kinds = our_errors()
    assert len(kinds) >= 12
    for kind in kinds:
        error = an_error(kind)
        for back in (pickle.loads(pickle.dumps(error)), pickle.loads(cloudpickle.dumps(error)), copy.copy(error)):
            assert (type(back), str(back), back.args) == (kind, str(error), error.args)
            assert back.__dict__ == error.__dict__
