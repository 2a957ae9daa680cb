"""Assignment: the probability is known, and a key stays where it was."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import pytest

from flyball.core.records import Arm, Route
from flyball.errors import Invalid
from flyball.serve.router import Router


def route(*weights: float, endpoint: str = "delays", candidate: str = "delays@2") -> Route:
    arms = [Arm(model="delays@1", weight=weights[0], role="champion")]
    arms += [Arm(model=candidate, weight=weight, role="candidate") for weight in weights[1:]]
    return Route(endpoint=endpoint, generation=1, arms=tuple(arms), set_at=datetime(2013, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("weights", "rho"),
    [((1.0,), 0.0), ((9.0, 1.0), 0.1), ((0.5, 0.5), 0.5), ((0.0, 3.0), 1.0), ((1.0, 0.0), 0.0)],
)
def test_the_probability_is_the_share_of_the_weight(weights: tuple[float, ...], rho: float) -> None:
    assert Router(route(*weights)).rho == pytest.approx(rho)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, -0.5)])
def test_a_route_that_can_not_be_compared_is_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(Invalid, match="needs one champion"):
        Router(route(*weights))


def test_a_route_without_a_champion_is_refused() -> None:
    lonely = Route(
        endpoint="delays",
        generation=1,
        arms=(Arm(model="delays@2", weight=1.0, role="candidate"),),
        set_at=datetime(2013, 1, 1, tzinfo=UTC),
    )
    with pytest.raises(Invalid):
        Router(lonely)


def test_random_draws_reach_the_share() -> None:
    """Seeded; 20,000 draws lie within 5 standard deviations of a tenth."""
    router, random = Router(route(0.9, 0.1)), Random(7)
    share = sum(router.goes_to_candidate(random.random()) for _ in range(20_000)) / 20_000
    assert abs(share - 0.1) < 5 * (0.09 / 20_000) ** 0.5


def test_keys_stay_and_reach_the_share() -> None:
    router = Router(route(0.9, 0.1))
    draws = [router.draw_for(f"user-{number}") for number in range(20_000)]
    assert draws == [Router(route(0.5, 0.5)).draw_for(f"user-{number}") for number in range(20_000)]
    assert all(0.0 <= draw < 1.0 for draw in draws)
    share = sum(map(router.goes_to_candidate, draws)) / 20_000
    assert abs(share - 0.1) < 5 * (0.09 / 20_000) ** 0.5


def test_a_ramp_only_adds_keys_to_the_candidate() -> None:
    small, large = Router(route(0.9, 0.1)), Router(route(0.5, 0.5))
    for number in range(1000):
        if small.goes_to_candidate(small.draw_for(number)):
            assert large.goes_to_candidate(large.draw_for(number))


def test_another_candidate_cuts_the_keys_elsewhere() -> None:
    one, other = Router(route(0.5, 0.5)), Router(route(0.5, 0.5, candidate="delays@3"))
    same = sum(
        one.goes_to_candidate(one.draw_for(key)) == other.goes_to_candidate(other.draw_for(key))
        for key in range(4000)
    )
    assert abs(same / 4000 - 0.5) < 5 * (0.25 / 4000) ** 0.5
