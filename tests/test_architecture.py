"""The text form of an architecture is the same everywhere, so it must come back unchanged and its errors must point."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemamba.architecture import FULL, HALF, SKIP, Architecture, Block, format_block, parse_block
from slicemamba.errors import InputError

numbers = st.integers(1, 2000)
scans = st.tuples(numbers, numbers, st.integers(0, 64), st.integers(0, 4)).map(lambda four: Block(*four))
convolutions = st.tuples(st.integers(0, 4), st.integers(0, 5)).map(lambda two: Block(0, 0, 0, two[0], 2 * two[1] + 1))
sizes = scans | convolutions | st.sampled_from([SKIP, FULL, HALF])
architectures = st.lists(st.lists(sizes, min_size=1, max_size=5).map(tuple), min_size=1, max_size=8).map(
    lambda stages: Architecture(tuple(stages))
)


@given(architectures)
def test_text_form_comes_back(architecture: Architecture) -> None:
    assert Architecture.parse(str(architecture)) == architecture


@given(architectures)
def test_blocks_and_depths_come_back(architecture: Architecture) -> None:
    blocks = list(architecture.blocks())
    assert len(blocks) == architecture.num_blocks == sum(architecture.depths)
    assert Architecture.from_blocks(blocks, architecture.depths) == architecture


@given(sizes)
def test_block_comes_back(block: Block) -> None:
    assert parse_block(format_block(block)) == block


def test_text_form_is_the_documented_one() -> None:
    architecture = Architecture((((2, 2), (4, 4)), ((2, 4),)))
    assert str(architecture) == "s1:2x2,4x4|s2:2x4"
    assert Architecture.parse(" s1: 2x2, 4x4 | s2: 2x4 \n") == architecture
    smaller = Architecture(((SKIP, Block(2, 4, d_state=8)), (Block(4, 4, expand=1), Block(2, 2, 8, 1))))
    assert str(smaller) == "s1:-,2x4n8|s2:4x4e1,2x2n8e1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2x",
        "x2",
        "0x2",
        "2x0",
        "-2x2",
        "2X2",
        "2x2x2",
        "02x2",
        "2x2n",
        "2x2n0",
        "2x2e1n8",
        "--",
        "2.0x2",
        "two",
        "2 x 2",
    ],
)
def test_slice_size_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="slice size must look like '2x4'") as caught:
        parse_block(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "part 1 is ''"),
        ("2x2", "part 1 is '2x2'"),
        ("s1:2x2|s3:2x2", "part 2 is 's3:2x2'"),
        ("s0:2x2", "part 1 is 's0:2x2'"),
        ("s1:", "part 1 is 's1:'"),
        ("s1:2x2|", "part 2 is ''"),
        ("s1:2x2|s2:2x2,0x4", "'0x4'"),
        ("s1:2x2,|s2:2x2", "got ''"),
        ("s1:2x2;s2:2x2", "'2x2;s2:2x2'"),
    ],
)
def test_error_names_the_part_that_is_wrong(text: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        Architecture.parse(text)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "size", [(0, 2), (2, -1), (2,), (2, 2, 2), (2.0, 2), ("2", "2"), Block(0, 2), Block(0, 0, 8), Block(2, 2, -1)]
)
def test_architecture_of_impossible_slices_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="slice size must be two integers of 1 or more"):
        Architecture(((size,),))


@pytest.mark.parametrize("count", [2, 4])
def test_wrong_number_of_blocks_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=rf"expected 3 blocks for stages of depths \(1, 2\); got {count}"):
        Architecture.from_blocks([(2, 2)] * count, (1, 2))


def test_architectures_are_values() -> None:
    one, other = (Architecture.uniform((2, 4), (1, 2)) for _ in range(2))
    assert one == other
    assert len({one, other, Architecture.uniform((4, 2), (1, 2))}) == 2
    assert sorted([Architecture.uniform((4, 2), (1, 2)), one])[0] is one


def test_uniform_takes_the_text_of_the_command_line() -> None:
    assert Architecture.uniform("2x4n8", (1, 2)) == Architecture.uniform(Block(2, 4, 8), (1, 2))
    with pytest.raises(InputError, match="slice size must look like '2x4'"):
        Architecture.uniform("2", (1, 2))
