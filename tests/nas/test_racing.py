"""Racing: the bound is the scores' own difference in the end, errors stay rare, and a search resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from optuna.storages import BaseStorage, InMemoryStorage
from search_cases import SPACE, config, open_session, score, story

from nas.config import COUNTED, RacingConfig, SearchConfig
from nas.racing import Comparison, Leaders, Race, ratio_parts
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, TrialState
from slicemamba.architecture import Architecture
from slicemamba.evaluation.metrics import summarize

Counts = npt.NDArray[np.int64]


def drawn_counts(rng: np.random.Generator, images: int, classes: int = 1) -> Counts:
    """Counts of images of 1000 pixels, lesions of very different sizes."""
    shares = rng.dirichlet([2, 0.5, 0.7, 8], size=(images, classes))
    counts = np.floor(shares * 1000).astype(np.int64)
    counts[..., 3] += 1000 - counts.sum(axis=-1)
    return counts


def near(rng: np.random.Generator, counts: Counts, strength: float) -> Counts:
    """Counts of another candidate on the same images: some found pixels missed, some missed ones found."""
    found = counts[..., 0] + counts[..., 2]
    tp = np.clip(np.rint(counts[..., 0] + strength * rng.normal(size=found.shape) * np.sqrt(found + 1)), 0, found)
    other = counts.copy()
    other[..., 0], other[..., 2] = tp, found - tp
    return other


def scores(counts: Counts) -> dict[str, float]:
    return summarize(torch.from_numpy(counts))


@pytest.mark.parametrize("objective", COUNTED)
def test_bound_over_all_images_has_the_sign_of_the_difference(objective: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        reference, candidate = drawn_counts(rng, 12), drawn_counts(rng, 12)
        difference = scores(candidate)[objective] - scores(reference)[objective]
        bound = Comparison(reference, [drawn_counts(rng, 12)], objective).upper_bound(candidate, 0.99)
        assert np.sign(bound) == np.sign(difference)


@pytest.mark.parametrize("objective", COUNTED)
def test_over_several_classes_the_difference_is_met_to_first_order(objective: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        reference = drawn_counts(rng, 30, classes=4)
        candidate = near(rng, reference, 0.5)
        difference = scores(candidate)[objective] - scores(reference)[objective]
        assert Comparison(reference, [], objective).upper_bound(candidate, 0.99) == pytest.approx(
            difference, rel=0.05, abs=2e-4
        )


def test_class_that_is_nowhere_counts_against_who_marks_it() -> None:
    empty = np.zeros((8, 1, 4), dtype=np.int64)
    empty[..., 3] = 100
    marked = empty.copy()
    marked[:, 0, 1], marked[:, 0, 3] = 1, 99
    assert Comparison(empty, [marked, empty], "miou").upper_bound(marked, 0.99) < 0
    assert Comparison(empty, [], "miou").upper_bound(empty, 0.99) == 0


@pytest.mark.parametrize("objective", COUNTED)
def test_parts_make_the_pooled_score(objective: str) -> None:
    counts = drawn_counts(np.random.default_rng(2), 9, classes=3)
    above, below = ratio_parts(counts, objective)
    assert (above.sum(axis=0) / below.sum(axis=0)).mean() == pytest.approx(scores(counts)[objective])


def lost_after(race: Race, counts: Counts, looks: range) -> int | None:
    """After how many images a candidate is given up."""
    return next((seen for seen in looks if race.lost(counts[:seen])), None)


def races(counts: Counts, objective: str, seed: int, rounds: int) -> tuple[float, float, float]:
    """Races of every candidate of a search against the tenth best before it, images in random orders.

    Returns:
        Share given up of those at least as good as their reference, and of those worse, and mean share of images seen.
    """
    rng = np.random.default_rng(seed)
    options = RacingConfig(confidence=0.99, min_images=10)
    values = np.array([scores(each)[objective] for each in counts])
    num_images = counts.shape[1]
    looks = range(10, num_images, 10)
    good, bad, images = [], [], []
    for _ in range(rounds):
        order = rng.permutation(num_images)
        for number in range(10, len(counts)):
            best = np.argsort(-values[:number], kind="stable")[:10]
            peers = [counts[i][order] for i in best]
            race = Race(options, [objective], peers[-1:], peers, num_looks=len(looks))
            stopped = lost_after(race, counts[number][order], looks)
            (good if values[number] >= values[best[-1]] else bad).append(stopped is not None)
            images.append((stopped or num_images) / num_images)
    return float(np.mean(good)), float(np.mean(bad)), float(np.mean(images))


def test_false_eliminations_are_rare_on_recorded_counts() -> None:
    """Candidates of a search on Kvasir images (``python -m benchmarks.search_cost --counts``)."""
    with np.load(Path(__file__).parent / "kvasir_counts.npz") as arrays:
        counts = arrays["counts"].astype(np.int64)
    wrong, right, images = races(counts, "miou", seed=0, rounds=5)
    assert wrong <= 0.01
    assert right > 0.1
    assert images < 1


def test_false_eliminations_are_rare_where_all_are_equally_good() -> None:
    """The hardest case: the candidates differ on every image, and in the sum by chance alone."""
    rng = np.random.default_rng(3)
    base = drawn_counts(rng, 60)
    counts = np.stack([near(rng, base, 2.0) for _ in range(120)])
    wrong, right, _ = races(counts, "dice", seed=4, rounds=5)
    assert wrong <= 0.01
    assert right > wrong


def test_images_on_which_trials_differ_may_still_make_up_for_those_seen() -> None:
    """The candidate is behind on all images seen; what is to come is where the peers differ a lot, or not at all."""
    rng = np.random.default_rng(7)
    reference = drawn_counts(rng, 40)
    reference[..., :3] += 50
    candidate = reference.copy()
    candidate[:20, :, 0] -= 3
    candidate[:20, :, 2] += 3
    calm, lively = ([reference.copy() for _ in range(4)] for _ in range(2))
    for peers, images in ((calm, slice(0, 20)), (lively, slice(20, 40))):
        for i, peer in enumerate(peers):
            peer[images, :, 0] += 2 * i - 3
            peer[images, :, 2] -= 2 * i - 3
    still, moving = (Comparison(reference, peers, "miou").upper_bound(candidate[:20], 0.99) for peers in (calm, lively))
    assert still < 0
    assert moving > still


def test_no_candidate_is_given_up_before_its_least_number_of_images() -> None:
    reference = np.tile(np.array([[300, 100, 100, 500]]), (40, 1, 1))
    worse = np.tile(np.array([[0, 100, 400, 500]]), (40, 1, 1))
    for min_images in (25, 30):
        race = Race(RacingConfig(min_images=min_images), ["miou"], [reference], [], num_looks=4)
        assert lost_after(race, worse, range(5, 40)) == min_images


def test_candidate_must_be_behind_in_every_objective_of_one_reference() -> None:
    rng = np.random.default_rng(6)
    reference = drawn_counts(rng, 40)
    bold = reference.copy()  # finds all, marks too much
    bold[..., 0] += bold[..., 2]
    bold[..., 1] += 300
    bold[..., 2] = 0
    bold[..., 3] -= 300
    options = RacingConfig()
    assert Race(options, ["specificity"], [reference], [], 1).lost(bold[:20])
    assert not Race(options, ["specificity", "sensitivity"], [reference], [], 1).lost(bold[:20])
    assert not Race(options, ["specificity"], [], [], 1).lost(bold[:20])


def test_leaders_of_an_evolution_are_its_last_parent() -> None:
    leaders = Leaders(config("evolution", num_parents=3, objectives=["miou", "dice"]))
    values = [0.1, 0.5, 0.7, 0.6, 0.2, 0.3, 0.05, 0.15, 0.25, 0.35, 0.4, 0.65]
    named = []
    for number, miou in enumerate(values):
        leaders.add(number, {"miou": miou, "dice": miou})
        named.append(leaders.references())
        assert len(leaders.peers()) == (10 if number >= 9 else 0)
    assert named == [()] * 9 + [(1,), (1,), (3,)]
    assert set(leaders.peers()) == set(range(12)) - {0, 6}


def test_leaders_of_other_searchers_are_the_front() -> None:
    leaders = Leaders(config("nsga2", objectives=["sensitivity", "specificity"]))
    for number in range(10):
        leaders.add(number, {"sensitivity": 0.1, "specificity": 0.1})
    assert len(leaders.references()) == 10
    for number, (one, other) in enumerate([(0.5, 0.5), (0.6, 0.4), (0.4, 0.4), (0.7, 0.5)], 10):
        leaders.add(number, {"sensitivity": one, "specificity": other})
    assert leaders.references() == (13,)
    assert len(leaders.peers()) == 10


def racing_session(storage: BaseStorage) -> tuple[SearchSession, Study, SearchConfig]:
    options = config("evolution", objectives=["miou", "dice"], racing={"min_images": 5}, seed=2)
    study = Study(storage, "search", SPACE, options.objectives, options.searcher)  # type: ignore[arg-type]
    session = SearchSession(
        study,
        make_searcher(options, SPACE),
        origin="evolution",
        num_trials=options.num_trials,
        enqueue=SPACE.fixed(),
        leaders=Leaders(options),
    )
    return session, study, options


def step(session: SearchSession, study: Study) -> bool:
    """Ends one trial: given up when it is behind its reference, as a race without errors would."""
    trial = session.ask()
    if trial is None:
        return False
    metrics = score(Architecture.parse(trial.architecture))
    done = {other.number: other for other in study.trials()}
    if any(metrics["miou"] < done[number].metrics["miou"] for number in trial.reference):
        session.prune(trial.number, 0.1, {"images": 6})
    else:
        session.tell(trial.number, metrics, 0.1, {"images": 18})
    return True


def full_story(study: Study) -> list[tuple[Any, ...]]:
    return [(*row, t.reference, t.work) for row, t in zip(story(study), study.trials(), strict=True)]


def test_search_with_racing_finds_the_best_and_resumes_exactly(storage: BaseStorage) -> None:
    session, whole, options = racing_session(InMemoryStorage())
    while step(session, whole):
        pass
    assert {trial.state for trial in whole.trials()} == {TrialState.COMPLETED, TrialState.PRUNED}

    more = True
    while more:  # each process dies after four trials, the last one under way
        session, study, _ = racing_session(storage)
        more = all(step(session, study) for _ in range(4))
        session.ask()
    assert full_story(study) == full_story(whole)

    plain, complete = open_session(None, options)
    while step(plain, complete):
        pass
    assert [t.architecture for t in complete.trials()] == [t.architecture for t in whole.trials()]
    assert max(t.metrics["miou"] for t in complete.trials()) == max(
        t.metrics["miou"] for t in whole.trials() if t.state is TrialState.COMPLETED
    )


def test_pruned_trials_have_no_result_and_the_fixed_slicings_are_never_raced(storage: BaseStorage) -> None:
    session, study, _ = racing_session(storage)
    while step(session, study):
        pass
    for trial in study.trials():
        if trial.origin == "fixed":
            assert trial.reference == ()
        if trial.state is TrialState.PRUNED:
            assert trial.reference
            assert trial.metrics == {}
            assert trial.error is None
            assert trial.work == {"images": 6}
            assert trial.ended
