"""Whose turn it is, as a pure decision: played through with any claims that come and end, nobody waits for ever and none is overtaken unfairly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from clinloop.store.turns import Waiting, in_turn, is_served


class Claim(NamedTuple):
    """What an owner asks for, when, and for how long."""

    comes: int
    owner: str
    wanted: int
    lasts: int


@dataclass
class Lane:
    """A lane with some units, played through second by second."""

    units: int
    claims: list[Claim]
    started: dict[int, int] = field(default_factory=dict[int, int])
    order: list[int] = field(default_factory=list[int])
    """Claims as they started."""

    def play(self) -> Lane:
        """Let everybody come, be served and end."""
        waiting: dict[int, int] = {}
        ended: dict[str, int] = {}
        count, now = 0, 0
        while len(self.started) < len(self.claims):
            for number in sorted(self.order):
                if self.started[number] + self.claims[number].lasts == now:
                    count += self.claims[number].wanted
                    ended[self.claims[number].owner] = count
            waiting |= {number: count for number, claim in enumerate(self.claims) if claim.comes == now}
            running = [number for number in self.order if self.started[number] + self.claims[number].lasts > now]
            held = Counter[str]()
            for number in running:
                held[self.claims[number].owner] += self.claims[number].wanted
            line = in_turn(
                [Waiting(n, self.claims[n].owner, self.claims[n].wanted, came) for n, came in waiting.items()],
                held,
                ended,
            )
            free = self.units - held.total()
            served = [claim.place for claim in line if is_served(line, claim.place, free)]
            assert running or served or not waiting, "somebody waits although nothing runs"
            for number in served:
                self.started[number] = now
                self.order.append(number)
                del waiting[number]
            now += 1
        return self

    def overtakes(self, number: int) -> list[Claim]:
        """Return the claims of others that started while this one waited."""
        claim = self.claims[number]
        between = self.order[: self.order.index(number)]
        return [
            self.claims[other]
            for other in between
            if self.claims[other].owner != claim.owner and self.started[other] >= claim.comes
        ]


def lanes(units: st.SearchStrategy[int], *, owners: str = "abcd") -> st.SearchStrategy[Lane]:
    """Any lane with up to 24 claims of a few owners."""

    def with_units(number: int) -> st.SearchStrategy[Lane]:
        claim = st.builds(
            Claim,
            comes=st.integers(0, 12),
            owner=st.sampled_from(owners),
            wanted=st.integers(1, number),
            lasts=st.integers(1, 8),
        )
        in_order = st.lists(claim, min_size=1, max_size=24).map(
            lambda claims: sorted(claims, key=lambda each: each.comes)
        )
        return st.builds(Lane, units=st.just(number), claims=in_order)

    return units.flatmap(with_units)


SOME = st.integers(1, 4)
UNTIMED = settings(deadline=None)


@UNTIMED
@given(lanes(SOME))
def test_everybody_is_served_and_within_one_owner_in_order_of_arrival(lane: Lane) -> None:
    lane.play()

    assert sorted(lane.order) == list(range(len(lane.claims)))
    for owner in {claim.owner for claim in lane.claims}:
        own = [number for number in lane.order if lane.claims[number].owner == owner]
        assert own == sorted(own)


@UNTIMED
@given(lanes(SOME))
def test_before_an_owner_who_holds_nothing_every_other_is_served_once_at_most_and_nobody_who_came_later(
    lane: Lane,
) -> None:
    lane.play()

    for number, claim in enumerate(lane.claims):
        earlier = [other for other in range(number) if lane.claims[other].owner == claim.owner]
        if any(lane.started[other] + lane.claims[other].lasts >= claim.comes for other in earlier):
            continue  # its owner has something else
        overtakes = lane.overtakes(number)
        assert all(count == 1 for count in Counter(other.owner for other in overtakes).values()), overtakes
        assert all(other.comes <= claim.comes for other in overtakes)


@UNTIMED
@given(lanes(st.just(1)))
def test_of_one_unit_every_owner_gets_every_other_turn_at_least(lane: Lane) -> None:
    lane.play()

    for number, claim in enumerate(lane.claims):
        own = [other for other in range(number) if lane.claims[other].owner == claim.owner]
        before = sum(lane.started[other] + lane.claims[other].lasts >= claim.comes for other in own)
        assert all(count <= before + 1 for count in Counter(other.owner for other in lane.overtakes(number)).values())


@UNTIMED
@given(st.integers(1, 3), st.integers(1, 10), st.integers(0, 20))
def test_ten_tasks_of_one_agent_delay_the_first_of_another_by_one_run_at_most(
    units: int, lasts: int, comes: int
) -> None:
    many = [Claim(0, "a", 1, lasts) for _ in range(10)]
    lane = Lane(units, sorted([*many, Claim(comes, "b", 1, 1)], key=lambda claim: claim.comes)).play()

    number = next(number for number, claim in enumerate(lane.claims) if claim.owner == "b")
    assert lane.started[number] - comes <= lasts


@UNTIMED
@given(st.integers(2, 4), st.integers(1, 5))
def test_a_flood_of_new_owners_does_not_starve_who_wants_all_units(units: int, lasts: int) -> None:
    flood = [Claim(second, f"owner {second}-{n}", 1, lasts) for second in range(15) for n in range(units)]
    lane = Lane(units, sorted([*flood, Claim(1, "wide", units, 1)], key=lambda claim: claim.comes)).play()

    wide = next(number for number, claim in enumerate(lane.claims) if claim.owner == "wide")
    assert all(other.comes <= 1 for other in lane.overtakes(wide))
