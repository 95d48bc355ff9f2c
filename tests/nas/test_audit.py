"""The audit's statistics against scipy and by hand, and every verdict from constructed evidence."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from search_cases import SPACE, score

from nas.audit import (
    CheaperMember,
    Estimate,
    Evidence,
    Verdict,
    difference,
    foresight,
    front_intervals,
    judge,
    not_worse,
    rank_agreement,
    score_interval,
    seed_deviation,
    seeds_for,
    smallest_visible,
    spread_sample,
    top_k_recall,
)
from nas.checklist import RunFacts, checklist
from nas.config import AuditConfig
from nas.objectives import primary_metric
from nas.pareto import hypervolume_curves
from nas.study import Trial, TrialState

Counts = NDArray[np.int64]


def trial(number: int, dice: float, state: TrialState = TrialState.COMPLETED) -> Trial:
    architecture = SPACE.decode([number >> bit & 1 for bit in range(6)])
    metrics = score(architecture) | {"dice": dice}
    return Trial(
        number=number, state=state, architecture=str(architecture), origin="random", metrics=metrics, asked_after=0
    )


def images(quality: float, count: int = 40, seed: int = 0) -> Counts:
    """(count, 1, 4) counts of a network that gets about this share of 1000 foreground pixels right."""
    rng = np.random.default_rng(seed)
    hits = np.clip(rng.normal(quality, 0.05, count), 0, 1) * 1000
    tp = hits.astype(np.int64)
    return np.stack([tp, 1000 - tp, 1000 - tp, 2000 + tp], axis=-1)[:, None, :]


class TestRanking:
    def test_estimates_are_those_of_scipy(self) -> None:
        rng = np.random.default_rng(3)
        x = rng.random(12)
        y = x + 0.4 * rng.random(12)
        found = rank_agreement(x.tolist(), y.tolist())
        assert found["kendall"]["value"] == pytest.approx(stats.kendalltau(x, y).statistic)
        assert found["spearman"]["value"] == pytest.approx(stats.spearmanr(x, y).statistic)
        for name in ("kendall", "spearman", "top_k_recall"):
            assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
        assert found["num_architectures"] == 12
        assert found["k"] == 3

    def test_interval_agrees_with_scipys_bootstrap(self) -> None:
        rng = np.random.default_rng(5)
        x = rng.random(30)
        y = x + rng.random(30)
        ours = rank_agreement(x.tolist(), y.tolist())["kendall"]
        other = stats.bootstrap(
            (x, y), lambda a, b: stats.kendalltau(a, b).statistic, paired=True, vectorized=False, n_resamples=1000,
            method="percentile", rng=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip
        assert [ours["low"], ours["high"]] == pytest.approx([other.low, other.high], abs=0.06)

    def test_interval_tells_order_from_noise(self) -> None:
        x = np.linspace(0, 1, 16)
        noise = np.random.default_rng(0).permutation(16)
        assert rank_agreement(x.tolist(), (x**2).tolist())["kendall"]["low"] == pytest.approx(1.0)
        unordered = rank_agreement(x.tolist(), noise.tolist())["kendall"]
        assert unordered["low"] < 0 < unordered["high"]

    @pytest.mark.parametrize(("x", "y"), [([], []), ([0.1, 0.2], [0.1, 0.2]), ([0.5] * 9, [0.1 * i for i in range(9)])])
    def test_too_little_gives_no_figure(self, x: list[float], y: list[float]) -> None:
        assert rank_agreement(x, y)["kendall"] == {"value": None, "low": None, "high": None}

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(ValueError, match="got 2 and 3"):
            rank_agreement([1, 2], [1, 2, 3])

    def test_recall_counts_the_best_in_common(self) -> None:
        supernet, alone = np.array([0.9, 0.8, 0.1, 0.2]), np.array([0.9, 0.1, 0.8, 0.2])
        assert top_k_recall(supernet, alone, 1) == 1
        assert top_k_recall(supernet, alone, 2) == 0.5
        assert top_k_recall(supernet, -supernet, 2) == 0


class TestDifference:
    def test_equal_networks_tie_exactly(self) -> None:
        assert difference([images(0.8)], [images(0.8)], "dice") == Estimate(value=0.0, low=0.0, high=0.0)

    def test_pairing_resolves_what_the_two_intervals_do_not(self) -> None:
        worse = images(0.80)
        better = worse.copy()
        better[..., 0] += 5
        better[..., 1:3] -= 5
        one, other = score_interval(better, "dice"), score_interval(worse, "dice")
        assert one.low is not None
        assert other.high is not None
        assert one.low < other.high
        between = difference([better], [worse], "dice")
        assert between.low is not None
        assert between.low > 0

    def test_seeds_that_disagree_widen_the_interval(self) -> None:
        best = [images(q, seed=1) for q in (0.86, 0.80, 0.74)]
        steady = [images(0.80, seed=1)] * 3
        over_seeds, one_seed = (
            difference(best, [images(0.7, seed=1)] * 3, "dice"),
            difference(steady, [images(0.7, seed=1)] * 3, "dice"),
        )
        assert over_seeds.value == pytest.approx(one_seed.value, abs=0.01)
        assert width(over_seeds) > 3 * width(one_seed)

    def test_interval_holds_the_truth_when_trainings_scatter(self) -> None:
        """Trainings that scatter by 0.03 around one quality, more than images do: 0 should lie in most intervals."""
        rng = np.random.default_rng(7)
        held = 0
        for draw in range(40):
            sides = [[images(0.8 + rng.normal(0, 0.03), seed=100 * draw + i) for i in range(3)] for _ in range(2)]
            found = difference(sides[0], sides[1], "dice", seed=draw)
            assert found.low is not None
            assert found.high is not None
            held += found.low <= 0 <= found.high
        assert held >= 36  # 38 are expected

    def test_a_second_seed_alike_changes_little(self) -> None:
        one, other = images(0.85, seed=1), images(0.80, seed=1)
        single, twice = difference([one], [other], "dice"), difference([one] * 2, [other] * 2, "dice")
        assert (single.low, single.high) == pytest.approx((twice.low, twice.high), abs=1e-9)


class TestPatients:
    """Images of one patient are alike: 100 slices of 4 volumes are no more than 4 volumes."""

    PATIENTS = tuple(f"case{i // 25}" for i in range(100))

    def volumes(self, *quality: float) -> Counts:
        return np.concatenate([images(one, 25, seed=i) for i, one in enumerate(quality)])

    def test_alike_images_of_few_patients_tell_less(self) -> None:
        best, other = self.volumes(0.9, 0.9, 0.7, 0.7), self.volumes(0.7, 0.7, 0.8, 0.8)
        by_image = difference([best], [other], "dice")
        by_patient = difference([best], [other], "dice", patients=self.PATIENTS)
        assert by_image.value == by_patient.value
        assert by_image.low is not None
        assert by_patient.low is not None
        assert by_image.low > 0 > by_patient.low
        assert width(score_interval(best, "dice", patients=self.PATIENTS)) > 3 * width(score_interval(best, "dice"))

    def test_front_ties_by_patients(self) -> None:
        front = [self.volumes(0.9, 0.9, 0.7, 0.7), self.volumes(0.7, 0.7, 0.8, 0.8)]
        assert not front_intervals(front, ["dice"], "dice")[1]["tie"]
        assert front_intervals(front, ["dice"], "dice", patients=self.PATIENTS)[1]["tie"]


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_front_shows_ties_as_ties() -> None:
    rows = front_intervals([images(0.85, seed=1), images(0.85, seed=2), images(0.60, seed=3)], ["dice", "miou"], "dice")
    assert [row["tie"] for row in rows] == [True, True, False]
    assert set(rows[0]["intervals"]) == {"dice", "miou"}
    assert rows[2]["difference_to_best"]["high"] < 0
    alone = front_intervals([images(0.85)], ["dice"], "dice")
    assert alone[0]["difference_to_best"]["value"] == 0


def test_more_members_make_ties_likelier() -> None:
    best, near = images(0.80, seed=1), images(0.778, seed=2)
    few, many = (front_intervals([best, near, *[best] * more], ["dice"], "dice")[1] for more in (0, 30))
    assert width(Estimate(**many["difference_to_best"])) > width(Estimate(**few["difference_to_best"]))


class TestSample:
    def test_scores_lie_over_the_range(self) -> None:
        crowded = [trial(i, 0.9 + i / 10000) for i in range(50)] + [trial(60, 0.1), trial(61, 0.5)]
        chosen = [t.metrics["dice"] for t in spread_sample(crowded, "dice", 3, set())]
        assert chosen[0] == 0.1
        assert chosen[1] == 0.5
        assert chosen[2] >= 0.9

    def test_none_is_taken_twice_or_left_out_in_vain(self) -> None:
        trials = [trial(i, 0.5) for i in range(6)] + [trial(7, 0.9, TrialState.FAILED)]
        best = trials[0].architecture
        chosen = [t.architecture for t in spread_sample(trials, "dice", 10, {best})]
        assert sorted(chosen) == sorted({t.architecture for t in trials[1:6]})
        assert spread_sample([], "dice", 3, set()) == []


class TestHypervolume:
    def test_curves_share_a_box_and_never_fall(self) -> None:
        rng = np.random.default_rng(0)
        curves = hypervolume_curves({"search": rng.random((30, 2)), "random": rng.random((30, 2))})
        for curve in curves.values():
            assert all(0 < value <= 1 for value in curve)
            assert all(later >= before for before, later in pairwise(curve))

    def test_by_hand(self) -> None:
        # Scaled to the box: (0, 1), (1, 0) and the middle; the reference is 1.1 in both.
        curve = hypervolume_curves({"search": np.array([[0.0, 10.0], [2.0, 0.0], [1.0, 5.0]])})["search"]
        corner, both = 1.1 * 0.1, 2 * 1.1 * 0.1 - 0.1 * 0.1
        assert curve == pytest.approx([corner / 1.21, both / 1.21, (both + 0.5 * 0.5) / 1.21])

    def test_failed_evaluations_spend_budget_and_win_nothing(self) -> None:
        nan = float("nan")
        curve = hypervolume_curves({"search": np.array([[nan, nan], [0.0, 1.0], [nan, nan], [1.0, 0.0]])})["search"]
        assert curve[0] == 0
        assert curve[1] == curve[2] > 0
        assert hypervolume_curves({"search": np.full((2, 2), nan)}) == {"search": [0.0, 0.0]}


SOUND = Evidence(
    metric="dice",
    leaks=0,
    data_changed=False,
    num_test_images=100,
    num_test_patients=100,
    trivial=Estimate(value=0.5, low=0.45, high=0.55),
    benefit=Estimate(value=0.02, low=0.01, high=0.03),
    retrain_seeds=3,
    fixed_above=[],
    ranking=Estimate(value=0.6, low=0.2, high=0.9),
    num_architectures=13,
    search_volume=0.9,
    random_volumes=[0.7, 0.8, 0.85],
)
OPEN = Estimate(value=0.02, low=-0.01, high=0.05)
AGAINST = Estimate(value=-0.02, low=-0.05, high=0.01)


class TestVerdict:
    def test_all_that_is_sound_is_supported(self) -> None:
        verdict = judge(SOUND)
        assert verdict.word == "supported"
        assert {one.outcome for one in verdict.criteria} == {"passed"}

    @pytest.mark.parametrize(
        ("change", "word", "criterion"),
        [
            ({"benefit": OPEN}, "weak", "better than fixed slicing"),
            ({"retrain_seeds": 2}, "weak", "better than fixed slicing"),
            ({"fixed_above": ["2x4"]}, "weak", "better than fixed slicing"),
            ({"ranking": OPEN}, "weak", "ranking by the supernet"),
            ({"ranking": Estimate(value=None)}, "weak", "ranking by the supernet"),
            ({"num_architectures": 7}, "weak", "ranking by the supernet"),
            ({"trivial": OPEN}, "weak", "better than trivial"),
            ({"random_volumes": [0.7, 0.8]}, "weak", "better than random search"),
            ({"random_volumes": [0.7, 0.8, 0.95]}, "weak", "better than random search"),
            ({"random_volumes": [0.95, 0.96, 0.97]}, "weak", "better than random search"),
            ({"random_volumes": []}, "weak", "better than random search"),
            ({"leaks": 1}, "not supported", "disjoint splits"),
            ({"data_changed": True}, "not supported", "disjoint splits"),
            ({"trivial": AGAINST}, "not supported", "better than trivial"),
            ({"benefit": AGAINST}, "not supported", "better than fixed slicing"),
            ({"benefit": None}, "not supported", "better than fixed slicing"),
            ({"ranking": AGAINST}, "not supported", "ranking by the supernet"),
        ],
    )
    def test_each_fault_is_judged_and_named(self, change: dict[str, Any], word: str, criterion: str) -> None:
        verdict = judge(replace(SOUND, **change))
        assert verdict.word == word
        assert [one.name for one in verdict.criteria if one.outcome != "passed"] == [criterion]
        assert criterion in verdict.sentence

    def test_few_test_images_leave_both_comparisons_open(self) -> None:
        verdict = judge(replace(SOUND, num_test_images=19, num_test_patients=19))
        assert verdict.word == "weak"
        assert [one.name for one in verdict.criteria if one.outcome == "open"] == [
            "better than trivial",
            "better than fixed slicing",
        ]

    def test_many_images_of_few_patients_are_few(self) -> None:
        verdict = judge(replace(SOUND, num_test_images=1500, num_test_patients=12))
        assert verdict.word == "weak"
        told = [one.evidence for one in verdict.criteria if one.outcome == "open"]
        assert len(told) == 2
        assert all("1500 images of 12 patients" in one and "fewer than 20 patients" in one for one in told)

    @settings(max_examples=200)
    @given(st.data())
    def test_worse_evidence_never_earns_a_better_word(self, data: st.DataObject) -> None:
        changes = {
            "leaks": st.sampled_from([0, 3]),
            "num_test_patients": st.sampled_from([5, 100]),
            "benefit": st.sampled_from([SOUND.benefit, OPEN, AGAINST, None]),
            "retrain_seeds": st.sampled_from([1, 3]),
            "ranking": st.sampled_from([SOUND.ranking, OPEN, AGAINST]),
            "random_volumes": st.sampled_from([[0.7, 0.8, 0.85], [0.95, 0.95, 0.95], []]),
        }
        drawn = replace(SOUND, **{name: data.draw(values, label=name) for name, values in changes.items()})
        worse = replace(drawn, **{"leaks": 1} if data.draw(st.booleans()) else {"benefit": AGAINST})
        assert rank(judge(worse)) <= rank(judge(drawn))


MEMBER = CheaperMember(
    number=12,
    rival="2x2",
    difference=Estimate(value=0.002, low=-0.006, high=0.01),
    seeds=3,
    costs={"flops": (171e6, 461e6), "params": (1e6, 2e6), "latency_ms": (6.1, 9.15)},
)
NOT_BETTER = replace(SOUND, benefit=AGAINST)


class TestCheaperAtNoLoss:
    def test_claim_is_told_with_the_network_and_its_savings(self) -> None:
        verdict = judge(replace(NOT_BETTER, cheaper=[MEMBER]))
        assert verdict.word == "supported", "one of the two claims holds"
        assert [(claim.name, claim.word) for claim in verdict.claims] == [
            ("better", "not supported"),
            ("cheaper", "supported"),
        ]
        for words in ("trial 12", "2.7 times fewer FLOPs (171 M instead of 461 M)", "2.0 times fewer parameters",
                      "1.5 times less time", "best fixed one (2x2)", "1 point of Dice"):  # fmt: skip
            assert words in verdict.sentence

    @pytest.mark.parametrize(
        ("member", "evidence", "word"),
        [
            ({"difference": Estimate(value=0.002, low=-0.011, high=0.02)}, {}, "weak"),
            ({"difference": Estimate(value=-0.02, low=-0.03, high=-0.01)}, {}, "not supported"),
            ({"difference": Estimate(value=None)}, {}, "weak"),
            ({"seeds": 2}, {}, "weak"),
            ({}, {"num_test_patients": 12}, "weak"),
            ({}, {"leaks": 1}, "not supported"),
            ({}, {"margin": 0.005}, "weak"),
        ],
    )
    def test_what_is_missing_is_not_claimed(self, member: dict[str, Any], evidence: dict[str, Any], word: str) -> None:
        verdict = judge(replace(NOT_BETTER, cheaper=[replace(MEMBER, **member)], **evidence))
        assert verdict.claims[1].word == word
        assert "12" in verdict.claims[1].sentence

    def test_of_several_members_that_pass_the_cheapest_is_named(self) -> None:
        cheap = replace(MEMBER, number=7, costs={"flops": (100e6, 461e6)})
        failed = replace(MEMBER, number=3, costs={"flops": (10e6, 461e6)}, difference=AGAINST)
        verdict = judge(replace(NOT_BETTER, cheaper=[failed, MEMBER, cheap]))
        assert "trial 7" in verdict.claims[1].sentence

    def test_what_a_cheaper_network_has_more_of_is_no_saving(self) -> None:
        costs = {**MEMBER.costs, "params": (2.4e6, 1.8e6), "latency_ms": (31.0, 20.0)}
        sentence = judge(replace(NOT_BETTER, cheaper=[replace(MEMBER, costs=costs)])).claims[1].sentence
        assert "2.7 times fewer FLOPs" in sentence
        assert "but 1.3 times the parameters (2.40 M instead of 1.80 M) and 1.6 times the time per pass" in sentence
        assert "0.8 times" not in sentence
        assert "0.6 times" not in sentence
        assert "by 1 point of Dice" in sentence

    def test_without_a_cheaper_member_there_is_one_claim(self) -> None:
        assert [claim.name for claim in judge(SOUND).claims] == ["better"]

    def test_networks_that_are_worse_by_the_margin_seldom_pass(self) -> None:
        """Two members that are a margin worse than the rival, three trainings each: false positives ≤ 5 %."""
        rng = np.random.default_rng(0)
        margin, runs, passed = 0.01, 300, 0
        for run in range(runs):
            hard = rng.normal(0, 0.08, 60)  # images that are hard for all

            def trained(quality: float, hard: NDArray[np.float64] = hard) -> list[Counts]:
                lucks = rng.normal(0, 0.012, 3)
                shares = [np.clip(quality + luck + hard + rng.normal(0, 0.03, 60), 0, 1) for luck in lucks]
                return [of_shares(share) for share in shares]

            found = not_worse([trained(0.7 - margin), trained(0.7 - margin)], trained(0.7), "dice", seed=run,
                              num_resamples=500)  # fmt: skip
            passed += any(one.low is not None and one.low > -margin for one in found)
        assert passed / runs <= 0.05

    def test_networks_that_are_as_good_pass_where_images_and_seeds_suffice(self) -> None:
        rng = np.random.default_rng(1)
        hard = rng.normal(0, 0.05, 200)
        own, other = ([of_shares(0.7 + hard + rng.normal(0, 0.01, 200)) for _ in range(5)] for _ in range(2))
        [found] = not_worse([own], other, "dice")
        assert found.low is not None
        assert found.low > -0.01


def of_shares(shares: NDArray[np.float64]) -> Counts:
    """Counts of images of which these shares of 1000 foreground pixels are right, which is their Dice, too."""
    tp = (shares * 1000).astype(np.int64)
    return np.stack([tp, 1000 - tp, 1000 - tp, 2000 + tp], axis=-1)[:, None, :]


@pytest.mark.parametrize("margin", [0.0, -0.01, 1.0])
def test_margin_that_allows_nothing_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="it must lie between 0 and 1"):
        AuditConfig(margin=margin)


def rank(verdict: Verdict) -> int:
    return ["not supported", "weak", "supported"].index(verdict.word)


def test_primary_metric_is_one_with_counts() -> None:
    assert primary_metric(("latency_ms", "miou", "dice")) == "miou"
    assert primary_metric(("hd95", "latency_ms")) == "dice"


def test_checklist_answers_from_the_run() -> None:
    facts = RunFacts(
        code="slicemamba-nas 0.1.0, commit abc", environment="Linux, torch 2", searcher="nsga2", num_trials=100,
        num_choices=4, num_blocks=22, space_size=4**22, seeds={"search": 7}, random_seeds=3, retrain_seeds=3,
        num_retrained=13, device_hours={"supernet": 1.5}, disjoint=False, baselines=["fixed slicing"],
    )  # fmt: skip
    items = checklist(facts)
    answers = {item.question: item for item in items}
    assert len(answers) == len(items)
    assert answers["Are train, val, search and test disjoint?"].answer == "no"
    assert "search 7" in answers["Are settings and seeds of the final training kept?"].evidence
    assert "supernet 1.5" in answers["Is the total cost reported, not only that of the search?"].evidence
    alone = {item.question: item.answer for item in checklist(replace(facts, random_seeds=0, disjoint=True))}
    assert alone["Was it compared with random search?"] == "no"
    assert alone["Are train, val, search and test disjoint?"] == "yes"


def test_visible_difference_is_that_of_students_interval() -> None:
    rng = np.random.default_rng(0)
    for num_seeds in (2, 3, 8):
        visible = smallest_visible(num_seeds, 0.02)
        assert visible is not None
        first, second = (rng.normal(0, 0.02, (4000, num_seeds)) for _ in range(2))
        pooled = np.sqrt((first.var(axis=1, ddof=1) + second.var(axis=1, ddof=1)) / 2)
        half = stats.t.ppf(0.975, 2 * num_seeds - 2) * pooled * np.sqrt(2 / num_seeds)
        assert np.sqrt(np.mean(half**2)) == pytest.approx(visible, rel=0.05)
        assert np.mean(abs(first.mean(1) - second.mean(1)) > half) == pytest.approx(0.05, abs=0.01)
    assert smallest_visible(1, 0.02) is None


def test_seeds_that_a_margin_takes_are_the_fewest() -> None:
    found = seeds_for(0.01, 0.021)
    assert found is not None
    for num_seeds, enough in ((found, True), (found - 1, False)):
        visible = smallest_visible(num_seeds, 0.021, 0.9)
        assert visible is not None
        assert (visible < 0.01) == enough
    assert seeds_for(1e-6, 0.021) is None


def test_foresight_says_what_can_be_told_and_what_it_takes() -> None:
    few, many, one, measured = foresight(3, 0.01), foresight(30, 0.01), foresight(1, 0.01), foresight(3, 0.01, 0.0005)
    assert "scatter by 2.1 points (as in docs/studies.md): with 3 of each network, differences below 4.8 points" in few
    assert f"may take {seeds_for(0.01, 0.021)} seeds" in few
    assert "enough to show that a cheaper network loses less than 1 point" in many
    assert "One training of each network cannot tell" in one
    assert "0.1 points (as measured here)" in measured
    assert "enough" in measured


def test_deviation_over_seeds_is_pooled_over_networks() -> None:
    assert seed_deviation([[0.5], [0.7]]) is None
    assert seed_deviation([[0.5, 0.6], [0.7]]) == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert seed_deviation([[0.1, 0.2, 0.3], [0.8, 0.8]]) == pytest.approx((0.02 / 3) ** 0.5)
