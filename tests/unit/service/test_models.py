"""The registry's verbs as people type them: answers, exit codes, and what each refusal says to do next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flyball.cli import main
from flyball.errors import Refused
from flyball.models import registry
from flyball.service import Workspace, models
from tests.unit.models.registering import draft


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLYBALL_ACTOR", "ann")
    (tmp_path / "flyball.toml").write_text('[project]\nname = "late"\n')
    ws = Workspace.open(tmp_path).use()
    for number in (1, 2, 3):
        data = f"model {number}".encode()
        ws.blobs.put(data)
        registry.add(ws.ledger, draft(data=data, metrics={"auc": 0.7 + number / 100}), actor="person:ann")
    return ws


@pytest.fixture
def say(project: Workspace, capsys: pytest.CaptureFixture[str]) -> Any:
    """Carry out a command; its answer as JSON, or (with a code) what it printed."""

    def run(*words: str, code: int = 0, plain: bool = False) -> Any:
        found = main([*words] if plain or code else [*words, "--json"])
        told = capsys.readouterr()
        assert found == code, told
        if plain or code:
            return told.out + told.err
        return json.loads(told.out) if told.out.strip() else None

    return run


def test_versions_are_listed_with_aliases_stages_and_the_name_of_their_model(say: Any) -> None:
    say("models", "alias", "delays@2", "champion")
    say("models", "stage", "delays@3", "staging")
    say("models", "rename", "delays", "late")
    rows = say("models", "ls")
    assert [(one["ref"], one["aliases"], one["stage"], one["model"]) for one in rows] == [
        ("delays@1", "", "None", "late"),
        ("delays@2", "champion", "None", "late"),
        ("delays@3", "", "Staging", "late"),
    ]
    assert say("models", "ls", "--model", "late") == rows
    assert say("models", "ls", "-q", plain=True).split() == ["delays@1", "delays@2", "delays@3"]
    say("models", "delete", "late@1", "--because", "wrong data")
    assert len(say("models", "ls")) == 2
    assert [one["deleted"] for one in say("models", "ls", "--deleted")] == [True, False, False]


def test_a_protected_endpoint_refuses_and_says_whom_to_ask(say: Any) -> None:
    say("models", "require-approval", "delays", "--roles", "risk,lead")
    told = say("deploy", "delays@2", "--endpoint", "delays", code=1)
    assert "not approved by risk, lead" in told
    assert "flyball models approve delays@2 --as risk" in told
    say("models", "approve", "delays@2", "--as", "risk", "--note", "read")
    assert "not approved by lead" in say("deploy", "delays@2", "--endpoint", "delays", code=1)
    say("models", "approve", "delays@2", "--as", "lead")
    say("deploy", "delays@2", "--endpoint", "delays")
    shown = say("models", "show", "delays@champion")
    assert (shown["serves"], shown["missing"]) == (["delays"], [])
    assert [(one["role"], one["by"]) for one in shown["approvals"]] == [
        ("risk", "person:ann"),
        ("lead", "person:ann"),
    ]
    say("models", "withdraw", "delays@2", "--as", "lead")
    assert say("models", "show", "delays@2")["missing"] == ["lead"]


def test_rolling_back_to_what_never_served_is_no_way_around_approvals(say: Any) -> None:
    say("deploy", "delays@1", "--endpoint", "delays")
    say("deploy", "delays@2", "--endpoint", "delays")
    say("models", "require-approval", "delays", "--roles", "risk")
    assert "not approved by risk" in say("rollback", "delays", "--to", "delays@3", code=1)
    assert say("rollback", "delays", "--to", "delays@1")["arms"][0]["model"] == "delays@1"


def test_who_served_is_asked_by_endpoint_by_time_and_by_version(say: Any) -> None:
    say("deploy", "delays@1", "--endpoint", "delays", "--because", "the first")
    say("deploy", "delays@2", "--endpoint", "delays", "--because", "better")
    say("rollback", "delays", "--because", "worse after all")
    spans = say("models", "served", "--endpoint", "delays")
    assert [(one["champion"], one["because"]) for one in spans] == [
        ("delays@1", "the first"),
        ("delays@2", "better"),
        ("delays@1", "worse after all"),
    ]
    assert spans[0]["until"] == spans[1]["since"]
    at = spans[1]["since"]
    (then,) = say("models", "served", "--endpoint", "delays", "--at", at)
    assert then["champion"] == "delays@2"
    assert len(say("models", "served", "--model", "delays@1")) == 2
    history = say("models", "history", "delays")
    assert [(one["alias"], one["version"]) for one in history] == [
        ("champion", "delays@1"),
        ("champion", "delays@2"),
        ("champion", "delays@1"),
    ]
    assert "--endpoint" in say("models", "served", "--at", at, code=2)
    assert "is no time" in say("models", "served", "--endpoint", "delays", "--at", "noon", code=2)


def test_signing_goes_into_the_plan_and_verify_finds_what_was_changed(
    say: Any, project: Workspace, tmp_path: Path
) -> None:
    made = say("models", "keys", "new", "--owner", "ann")
    say("deploy", "delays@1", "--endpoint", "delays")
    assert project.plan.endpoints["delays"].models["delays@1"].signed is None
    say("models", "sign", "delays@1")
    signed = project.plan.endpoints["delays"].models["delays@1"].signed
    assert signed is not None
    assert signed.public == made["public"]
    assert say("models", "keys", "ls") == [
        {"key": made["key"], "trusted": True, "signs here": True, "owner": "ann", "public": made["public"]}
    ]
    told = say("models", "verify", "delays@1")
    assert (told["wrong"], len(told["checked"])) == ([], 3)
    digest = registry.resolve(project.ledger, "delays@1").artifact
    file = tmp_path / ".flyball" / "blobs" / digest[3:5] / digest[5:]
    file.chmod(0o644)
    file.write_bytes(b"other")
    assert "have changed" in say("models", "verify", "delays@1", code=1)
    say("models", "keys", "distrust", made["key"])
    assert say("models", "keys", "ls")[0]["trusted"] is False


def test_a_project_that_requires_signatures_deploys_nothing_without(
    say: Any, project: Workspace, tmp_path: Path
) -> None:
    made = say("models", "keys", "new")
    (tmp_path / "flyball.toml").write_text(
        f'[models]\nrequire_signature = true\ntrusted = ["{made["public"]}"]\n'
    )
    assert "delays@1 is not signed" in say("deploy", "delays@1", "--endpoint", "delays", code=1)
    with pytest.raises(Refused, match="not signed"):
        models.load("delays@1", ws=Workspace.open(tmp_path))
    say("models", "sign", "delays@1")
    say("deploy", "delays@1", "--endpoint", "delays")
    plan = Workspace.open(tmp_path).plan
    assert plan.require_signature
    assert plan.trusted_keys == (made["public"],)


def test_going_back_to_what_workers_would_refuse_is_refused_where_the_person_stands(
    say: Any, tmp_path: Path
) -> None:
    say("deploy", "delays@1", "--endpoint", "delays")
    made = say("models", "keys", "new")
    say("models", "sign", "delays@2")
    say("deploy", "delays@2", "--endpoint", "delays")
    (tmp_path / "flyball.toml").write_text(
        f'[models]\nrequire_signature = true\ntrusted = ["{made["public"]}"]\n'
    )
    assert "delays@1 is not signed" in say("rollback", "delays", code=1)
    say("models", "sign", "delays@1")
    assert say("rollback", "delays")["arms"][0]["model"] == "delays@1"


def test_a_card_is_written_to_a_file(say: Any, tmp_path: Path) -> None:
    say("models", "describe", "delays", "Will a flight be late?")
    say("models", "tag", "delays@1", "--tags", "team=ops")
    say("models", "card", "delays@1", "--out", str(tmp_path / "CARD.md"))
    text = (tmp_path / "CARD.md").read_text()
    assert text.startswith("# delays@1\n")
    assert "Will a flight be late?" in text
    assert "team=ops" in text
    assert say("models", "card", "delays@1", plain=True).strip() == text.strip()


def test_comparing_names_both_versions(say: Any) -> None:
    rows = {one["what"]: one for one in say("models", "compare", "delays@1", "delays@3")}
    assert (rows["metric auc"]["delays@1"], rows["metric auc"]["delays@3"]) == (0.71, 0.73)
    assert say("models", "compare", "delays@1", "delays@1") == []


def test_an_alias_is_taken_away_and_stays_in_its_history(say: Any) -> None:
    say("models", "alias", "delays@2", "best", "--because", "it is")
    say("models", "unalias", "delays@best")
    assert [one["version"] for one in say("models", "history", "delays", "--alias", "best")] == [
        "delays@2",
        "-",
    ]
    assert "no model version" in say("models", "show", "delays@best", code=3)
    assert "has no alias" in say("models", "unalias", "delays@best", code=3)


def test_a_whole_model_is_deleted_by_its_name_and_counts_on(say: Any, project: Workspace) -> None:
    say("models", "delete", "delays")
    assert say("models", "ls") == []
    assert "was deleted" in say("deploy", "delays@1", "--endpoint", "delays", code=3)
    assert "versions 1 to 3, all deleted" in say("models", "show", "delays@9", code=3)
    assert say("models", "show", "delays@1")["deleted"] is True
    assert registry.add(project.ledger, draft(), actor="a").ref == "delays@4"


def test_over_http_a_role_is_said_as_it_is_on_the_command_line(project: Workspace) -> None:
    from flyball.api import _call, openapi
    from flyball.service.verb import table

    verbs = table()
    made = _call(verbs["models approve"], {"ref": "delays@1", "as": "risk"}, project)
    assert (made.role, made.model) == ("risk", "delays@1")
    body = openapi(verbs)["paths"]["/api/models/approve"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert (sorted(schema["properties"]), schema["required"]) == (["as", "note", "ref"], ["ref", "as"])
