"""Any sequence of registering, pointing, renaming, deleting: numbers are given once, refs stay, histories are complete."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flyball.core.records import ModelVersion
from flyball.errors import Conflict, FlyballError, NotFound
from flyball.models import catalogue, refs, registry, timeline
from tests.unit.models.registering import draft, new_ledger

NAMES = st.sampled_from(["a", "b", "A", "a b", "a@b"])
ALIASES = st.sampled_from(["champion", "best", "b"])


class Registry(RuleBasedStateMachine):
    """The registry beside a dict: family -> its names, versions and aliases."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger, self.clock = new_ledger()
        self.families: dict[str, dict[str, Any]] = {}
        self.owner: dict[str, str] = {}  # every name there ever was -> family
        self.pointed: list[tuple[str, str, str | None]] = []  # family, alias, ref
        self.given: set[str] = set()  # every ref there ever was

    def teardown(self) -> None:
        self.ledger.close()

    def family(self, name: str) -> dict[str, Any] | None:
        found = self.owner.get(name)
        return None if found is None else self.families[found]

    @rule(name=NAMES, aliases=st.lists(ALIASES, max_size=2, unique=True))
    def register(self, name: str, aliases: list[str]) -> None:
        version = registry.add(self.ledger, draft(name), actor="a", aliases=aliases)
        family = self.family(name)
        if family is None:
            self.owner[name] = name
            family = self.families[name] = {
                "family": name, "name": name, "last": 0, "versions": {}, "aliases": {}, "deleted": False,
            }  # fmt: skip
        elif family["deleted"]:
            family |= {"name": name, "deleted": False}
        family["last"] += 1
        assert version.ref == f"{family['name']}@{family['last']}"
        assert version.ref not in self.given
        self.given.add(version.ref)
        family["versions"][family["last"]] = (version.ref, True)
        for alias in aliases:
            self._point(family, alias, family["last"])

    def _point(self, family: dict[str, Any], alias: str, number: int) -> None:
        if family["aliases"].get(alias) != number:
            family["aliases"][alias] = number
            self.pointed.append((family["family"], alias, family["versions"][number][0]))

    def _unpoint(self, family: dict[str, Any], alias: str) -> None:
        del family["aliases"][alias]
        self.pointed.append((family["family"], alias, None))

    @rule(name=NAMES, alias=ALIASES, number=st.integers(1, 6))
    def point(self, name: str, alias: str, number: int) -> None:
        family = self.family(name)
        try:
            registry.set_alias(self.ledger, name, alias, number, because="", actor="a")
        except NotFound:
            assert family is None or family["deleted"] or not family["versions"].get(number, ("", False))[1]
            return
        assert family is not None
        self._point(family, alias, number)

    @rule(name=NAMES, alias=ALIASES)
    def unpoint(self, name: str, alias: str) -> None:
        family = self.family(name)
        try:
            registry.delete_alias(self.ledger, name, alias, because="", actor="a")
        except NotFound:
            assert family is None or alias not in family["aliases"]
            return
        assert family is not None
        self._unpoint(family, alias)

    @rule(name=NAMES, number=st.integers(1, 6))
    def delete(self, name: str, number: int) -> None:
        family = self.family(name)
        try:
            catalogue.delete_version(self.ledger, f"{name}@{number}", actor="a")
        except NotFound:
            assert family is None or family["deleted"] or not family["versions"].get(number, ("", False))[1]
            return
        assert family is not None
        family["versions"][number] = (family["versions"][number][0], False)
        for alias in sorted(one for one, at in family["aliases"].items() if at == number):
            self._unpoint(family, alias)

    @rule(name=NAMES)
    def delete_model(self, name: str) -> None:
        family = self.family(name)
        try:
            catalogue.delete_model(self.ledger, name, actor="a")
        except NotFound:
            assert family is None or family["deleted"]
            return
        assert family is not None
        family["deleted"] = True
        family["versions"] = {number: (ref, False) for number, (ref, _) in family["versions"].items()}
        for alias in sorted(family["aliases"]):
            self._unpoint(family, alias)

    @rule(name=NAMES, new=NAMES)
    def rename(self, name: str, new: str) -> None:
        family, other = self.family(name), self.family(new)
        try:
            catalogue.rename(self.ledger, name, new, actor="a")
        except NotFound:
            assert family is None or family["deleted"]
        except Conflict:
            assert other is not None
            assert other is not family
        else:
            assert family is not None
            family["name"] = new
            self.owner[new] = family["family"]

    @precondition(lambda self: self.families)
    @rule()
    def fold_again(self) -> None:
        self.ledger.rebuild()

    @invariant()
    def every_name_finds_its_versions(self) -> None:
        for name, owner in self.owner.items():
            family = self.families[owner]
            for number, (ref, present) in family["versions"].items():
                assert refs.resolve(self.ledger, f"{name}@{number}", deleted=True).ref == ref
                assert self.ledger.get("model", ref, ModelVersion).deleted is not present
                if not present:
                    try:
                        refs.resolve(self.ledger, f"{name}@{number}")
                    except FlyballError:
                        continue
                    raise AssertionError(f"{name}@{number} was deleted")
            if not family["deleted"]:
                shown = [one.number for one in refs.versions(self.ledger, name)]
                assert shown == [number for number, (_, here) in family["versions"].items() if here]
            assert refs.aliases_of(self.ledger, name) == family["aliases"]

    @invariant()
    def the_models_are_those(self) -> None:
        found = {one.family: one.name for one in refs.models(self.ledger)}
        assert found == {key: one["name"] for key, one in self.families.items() if not one["deleted"]}

    @invariant()
    def every_change_of_an_alias_is_in_its_history(self) -> None:
        for owner in self.families:
            found = [(one.alias, one.version) for one in timeline.changes(self.ledger, owner)]
            expected = [(alias, ref) for family, alias, ref in self.pointed if family == owner]
            assert sorted(found, key=str) == sorted(expected, key=str)
            for alias in {one for one, _ in expected}:  # and each alias's own in the order that it happened
                assert [ref for name, ref in found if name == alias] == [
                    ref for name, ref in expected if name == alias
                ]


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
