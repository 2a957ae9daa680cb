"""What people say of models: names that survive renaming, numbers given once, stages, tags, soft deletion."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from flyball.core.records import ModelVersion, RegisteredModel
from flyball.errors import Conflict, Invalid, NotFound, Refused
from flyball.models import catalogue, refs, registry
from flyball.stores.metadata import Ledger
from tests.unit.models.registering import add, new_ledger, serve


@pytest.fixture
def opened():
    ledger, clock = new_ledger()
    yield ledger, clock
    ledger.close()


@pytest.fixture
def ledger(opened):
    return opened[0]


def test_a_version_keeps_its_ref_when_its_model_is_renamed_and_both_names_find_it(ledger):
    add(ledger)
    registry.set_alias(ledger, "delays", "champion", 1, because="the first", actor="a")
    catalogue.rename(ledger, "delays", "late", actor="a")
    newer = add(ledger, "late")
    assert (newer.ref, newer.kin) == ("late@2", "delays")
    for ref, wanted in {
        "late@1": "delays@1",
        "delays@1": "delays@1",
        "delays@2": "late@2",
        "late@champion": "delays@1",
        "delays@champion": "delays@1",
        "late": "late@2",
        "delays": "late@2",
    }.items():
        assert refs.resolve(ledger, ref).ref == wanted, ref
    assert [one.ref for one in refs.versions(ledger, "late")] == ["delays@1", "late@2"]


def test_a_pipeline_that_still_says_the_old_name_registers_under_the_new_one(ledger):
    add(ledger)
    catalogue.rename(ledger, "delays", "late", actor="a")
    assert add(ledger, "delays").ref == "late@2"


def test_an_alias_moves_with_its_family_when_a_renamed_model_is_deployed(opened):
    ledger, clock = opened
    add(ledger)
    serve(ledger, clock, "delays@1")
    catalogue.rename(ledger, "delays", "late", actor="a")
    add(ledger, "late")
    serve(ledger, clock, "late@2")
    assert refs.aliases_of(ledger, "late") == {"champion": 2}
    assert refs.resolve(ledger, "delays@champion").ref == "late@2"


def test_a_model_may_get_a_name_back_that_was_its_own(ledger):
    add(ledger)
    catalogue.rename(ledger, "delays", "late", actor="a")
    assert catalogue.rename(ledger, "late", "delays", actor="a").former == ("late",)
    assert add(ledger).ref == "delays@2"
    assert refs.resolve(ledger, "late@2").ref == "delays@2"


@pytest.mark.parametrize("taken", ["other", "was other", "gone"])
def test_a_name_that_is_or_was_another_models_is_not_given_again(ledger, taken):
    add(ledger)
    add(ledger, "was other")
    catalogue.rename(ledger, "was other", "other", actor="a")
    add(ledger, "gone")
    catalogue.delete_model(ledger, "gone", actor="a")
    with pytest.raises(Conflict):
        catalogue.rename(ledger, "delays", taken, actor="a")
    if taken != "gone":
        with pytest.raises(Conflict):
            catalogue.create(ledger, taken, actor="a")


def test_a_number_is_given_once_even_when_the_newest_version_was_deleted(ledger):
    for _ in range(3):
        add(ledger)
    catalogue.delete_version(ledger, "delays@3", actor="a", because="wrong data")
    assert add(ledger).number == 4
    assert [one.number for one in refs.versions(ledger, "delays")] == [1, 2, 4]
    with pytest.raises(NotFound, match="was deleted"):
        refs.resolve(ledger, "delays@3")
    assert refs.resolve(ledger, "delays@3", deleted=True).deleted
    assert ledger.get("model", "delays@3", ModelVersion).artifact  # predictions of it are still explained


def test_a_deleted_model_comes_back_empty_and_counts_on(ledger):
    add(ledger)
    add(ledger)
    registry.set_alias(ledger, "delays", "champion", 1, because="", actor="a")
    catalogue.delete_model(ledger, "delays", actor="a")
    with pytest.raises(NotFound, match="was deleted"):
        refs.resolve(ledger, "delays@1")
    assert refs.models(ledger) == []
    assert [one.name for one in refs.models(ledger, deleted=True)] == ["delays"]
    made = catalogue.create(ledger, "delays", actor="a", description="anew")
    assert (made.last, made.description, refs.aliases_of(ledger, "delays")) == (2, "anew", {})
    assert refs.versions(ledger, "delays") == []
    assert add(ledger).ref == "delays@3"


def test_what_serves_is_not_deleted(opened):
    ledger, clock = opened
    add(ledger)
    add(ledger)
    serve(ledger, clock, "delays@2")
    for act in (
        lambda: catalogue.delete_version(ledger, "delays@2", actor="a"),
        lambda: catalogue.delete_model(ledger, "delays", actor="a"),
    ):
        with pytest.raises(Refused, match="delays@2 serves at delays"):
            act()
    catalogue.delete_version(ledger, "delays@1", actor="a")


def test_deleting_a_version_drops_the_aliases_that_point_at_it(ledger):
    add(ledger)
    add(ledger)
    for alias, number in {"one": 1, "best": 2, "champion": 2}.items():
        registry.set_alias(ledger, "delays", alias, number, because="", actor="a")
    catalogue.delete_version(ledger, "delays@2", actor="a")
    assert refs.aliases_of(ledger, "delays") == {"one": 1}


def test_a_stage_is_found_as_an_alias_is_and_an_alias_of_that_name_wins(ledger):
    for _ in range(3):
        add(ledger)
    catalogue.transition(ledger, "delays@1", "production", actor="a")
    catalogue.transition(ledger, "delays@2", "Production", actor="a")
    assert refs.resolve(ledger, "delays@production").number == 2
    catalogue.transition(ledger, "delays@3", "PRODUCTION", actor="a", archive_others=True)
    assert [one.stage for one in refs.versions(ledger, "delays")] == ["Archived", "Archived", "Production"]
    registry.set_alias(ledger, "delays", "production", 1, because="", actor="a")
    assert refs.resolve(ledger, "delays@production").number == 1
    with pytest.raises(Invalid, match="must be one of"):
        catalogue.transition(ledger, "delays@1", "nowhere", actor="a")


def test_descriptions_and_tags_are_of_a_model_or_of_a_version(opened):
    ledger, clock = opened
    add(ledger)
    clock.advance(timedelta(minutes=1))
    model = catalogue.describe(ledger, "delays", "late flights", actor="a")
    version = catalogue.describe(ledger, "delays@1", "the first", actor="a")
    assert isinstance(model, RegisteredModel)
    assert isinstance(version, ModelVersion)
    assert (model.description, version.description) == ("late flights", "the first")
    catalogue.tag(ledger, "delays", put={"team": "air", "year": "2013"}, actor="a")
    assert catalogue.tag(ledger, "delays", drop="year", actor="a").tags == {"team": "air"}
    assert catalogue.tag(ledger, "delays@1", put={"a": "1"}, actor="a").tags == {"a": "1"}
    before = len(ledger.events())
    catalogue.tag(ledger, "delays@1", put={"a": "1"}, actor="a")
    assert len(ledger.events()) == before  # the same again changes nothing


def test_versions_of_models_whose_names_resemble_one_another_are_kept_apart(ledger):
    for name in ("a", "A", "a b", "a@b", "aa", "a_", "a%"):
        catalogue.create(ledger, name, actor="x")
        assert add(ledger, name).ref == f"{name}@1"
    for name in ("a", "A", "a@b", "a_"):
        assert [one.ref for one in refs.versions(ledger, name)] == [f"{name}@1"]
        assert refs.resolve(ledger, f"{name}@1").name == name
    assert refs.resolve(ledger, "a@b").ref == "a@b@1"


def test_versions_registered_before_models_had_records_go_on_counting(ledger):
    old = ModelVersion(**{**_plain(add(ledger, "other")), "name": "old", "number": 4, "family": ""})
    with ledger.transaction() as tx:
        tx.append("model.registered", "old@4", actor="a", sets=[("model", "old@4", old)])
    assert refs.resolve(ledger, "old").ref == "old@4"
    assert [one.name for one in refs.models(ledger)] == ["other", "old"]
    assert add(ledger, "old").ref == "old@5"
    catalogue.rename(ledger, "old", "new", actor="a")
    assert [one.ref for one in refs.versions(ledger, "new")] == ["old@4", "old@5"]


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a:b", "a\nb", "x" * 257])
def test_what_can_not_name_a_model_is_invalid(ledger, name):
    with pytest.raises(Invalid):
        catalogue.create(ledger, name, actor="a")


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("nothing@1", "no model 'nothing'"),
        ("delays@9", "has versions 1, 3 and aliases champion"),
        ("delays@nobody", "has versions 1, 3 and aliases champion"),
        ("empty", "empty has no versions"),
        ("delays@2", "was deleted"),
    ],
)
def test_a_ref_that_names_nothing_says_what_there_is(ledger, ref, said):
    for _ in range(3):
        add(ledger)
    registry.set_alias(ledger, "delays", "champion", 1, because="", actor="a")
    catalogue.delete_version(ledger, "delays@2", actor="a")
    catalogue.create(ledger, "empty", actor="a")
    with pytest.raises(NotFound) as caught:
        refs.resolve(ledger, ref)
    assert said in str(caught.value)


def test_state_is_the_same_when_every_event_is_folded_again(ledger):
    add(ledger)
    add(ledger)
    registry.set_alias(ledger, "delays", "champion", 2, because="", actor="a")
    catalogue.rename(ledger, "delays", "late", actor="a")
    catalogue.delete_version(ledger, "late@1", actor="a")
    before = (refs.models(ledger), refs.versions(ledger, "late", deleted=True))
    ledger.rebuild()
    assert (refs.models(ledger), refs.versions(ledger, "late", deleted=True)) == before


def _plain(version):
    return {name: getattr(version, name) for name in version.__struct_fields__}


def test_versions_registered_at_once_have_numbers_of_their_own(ledger_url):
    def many(name):
        here = Ledger.open(ledger_url)
        try:
            return [add(here, name).ref for _ in range(8)]
        finally:
            here.close()

    Ledger.open(ledger_url).close()  # migrated once, before they come
    with ThreadPoolExecutor(4) as pool:
        made = [ref for refs_of_one in pool.map(many, ["delays"] * 4) for ref in refs_of_one]
    assert sorted(made) == sorted(f"delays@{number}" for number in range(1, 33))


def test_tags_and_descriptions_are_words_not_documents(ledger):
    add(ledger)
    many = {f"tag {number}": "x" for number in range(1000)}
    catalogue.tag(ledger, "delays", put=many, actor="a")
    for act, said in (
        (lambda: catalogue.tag(ledger, "delays", put={"one more": "x"}, actor="a"), "1001 tags"),
        (lambda: catalogue.tag(ledger, "delays@1", put={"a": "x" * 100_001}, actor="a"), "100001 letters"),
        (lambda: catalogue.describe(ledger, "delays", "x" * 100_001, actor="a"), "100001 letters"),
        (lambda: catalogue.create(ledger, "other", actor="a", tags={**many, "z": ""}), "1001 tags"),
        (lambda: add(ledger, tags={**many, "z": ""}), "1001 tags"),
    ):
        with pytest.raises(Invalid, match=said):
            act()
    assert len(refs.find_model(ledger, "delays").tags) == 1000
    assert refs.resolve(ledger, "delays").number == 1
