"""The nouns of the ledger, as frozen records. Things refer to one another by id; times are UTC and aware.

``Record.noun`` is the table a record lives in; ``to_builtins``/``convert`` are msgspec's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a snapshot: its path inside the snapshot, and its bytes by digest."""

    path: str
    digest: str
    size_bytes: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Data, as it was: ``flights@3`` is the digest of its manifest."""

    name: str
    number: int
    digest: str  # of the manifest: files, in order of path
    files: tuple[FileEntry, ...]
    created: datetime
    made_by: str  # a run id, or who added it
    parent: str | None = None  # what it was made from, by ref; by default the snapshot before it
    schema: dict[str, str] = {}
    rows: int | None = None
    statistics: dict[str, dict[str, Any]] = {}
    parents: tuple[str, ...] = ()  # all of what it was made from, when there is more than one
    source: dict[str, str] = {}  # where it was read: path, query and database, or frame
    manifest: str = ""  # blob that says where its bytes lie; "" when each file is a blob of its own
    file_count: int = 0  # ``files`` holds them all, or none when there are too many: the manifest has them
    size_bytes: int = 0
    columns: tuple[str, ...] = ()  # names of ``schema`` as they stand in the tables
    forgotten: bool = False  # no name any more: a collection may take its bytes

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"

    def as_text(self) -> str:
        """For people: one line."""
        rows = "" if self.rows is None else f", {self.rows:,} rows"
        made = ", ".join(dict.fromkeys(filter(None, (self.parent, *self.parents))))
        files = self.file_count or len(self.files)
        size = self.size_bytes or sum(one.size_bytes for one in self.files)
        return f"{self.ref}: {files:,} file{'' if files == 1 else 's'}, {size:,} bytes{rows}" + (
            f"; made of {made}" if made else ""
        )


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A name that points at a snapshot now, ``flights@clean``; its history is the events that set it."""

    name: str
    tag: str
    number: int
    set_at: datetime
    because: str = ""

    @property
    def key(self) -> str:
        return f"{self.name}@{self.tag}"


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    """A git commit that something was read from besides the project's own: a submodule, or an editable package."""

    path: str  # of its folder, from the project's
    commit: str | None
    patch: str | None = None  # blob digest of what was not committed there
    imports: tuple[str, ...] = ()  # the folders below it that Python imports from


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a run: git commit, what was not committed, and what it imported from elsewhere."""

    digest: str
    commit: str | None
    branch: str | None
    patch: str | None  # blob digest of the uncommitted patch; None when the tree is clean
    sources: tuple[FileEntry, ...] = ()  # project files as they were (all of them when there is no git)
    place: str = ""  # the project's folder inside its repository
    outside: tuple[FileEntry, ...] = ()  # imported from outside the project; paths from its folder
    nested: tuple[Checkout, ...] = ()  # submodules
    editable: dict[str, Checkout] = {}  # installed packages that are a folder of sources
    left_out: tuple[str, ...] = ()  # what a bound kept out: then the code can't be rebuilt exactly


class KeptCommit(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a git commit, as a pack: a run can be rebuilt when the commit is gone from its repository."""

    commit: str
    pack: str | None  # blob digest; with the packs of ``base`` it holds every object of the commit's tree
    base: str | None = None  # a commit that was kept before, of which this one differs by little
    depth: int = 0  # how many packs come before this one
    size_bytes: int = 0
    left_out: str = ""  # why there is no pack


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Python, platform and every installed package, pinned."""

    digest: str
    python: str
    platform: str
    packages: dict[str, str]
    sources: dict[str, str] = {}  # of packages that no index gave: a URL, a path, a repository at a commit
    implementation: str = "cpython"


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """A project's settings as a run saw them, secrets taken out; ``origins`` has those that are not defaults."""

    digest: str  # of profile and values
    profile: str
    values: dict[str, Any]  # "serve.port" -> 8080
    origins: dict[str, str]  # "serve.port" -> "flyball.toml [profiles.prod]"


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What a run ran on, with the limits that its container set."""

    digest: str
    cpu: str
    cores: int  # this process may use
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    cpu_limit: float | None = None  # cores, by cgroup
    memory_limit_bytes: int | None = None


class Metric(msgspec.Struct, frozen=True):
    """One value of one metric."""

    name: str
    value: float
    step: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a pipeline (or of plain code under ``fb.track``)."""

    id: str
    pipeline: str
    started: datetime
    status: Literal["running", "done", "failed", "refused", "scheduled", "killed"]
    params: dict[str, Any]
    code: str  # digest
    environment: str  # digest
    actor: str
    because: str = ""  # what asked for it: a decision id, a schedule, a person's words
    ended: datetime | None = None
    metrics: dict[str, float] = {}
    inputs: dict[str, str] = {}  # role -> digest or ref
    outputs: dict[str, str] = {}  # step output -> digest
    steps: tuple[dict[str, Any], ...] = ()
    error: str = ""
    pid: int = 0
    process: str = ""  # host/boot/pid/start tick: a name that no later process takes
    configuration: str = ""  # digest
    hardware: str = ""  # digest
    seeds: dict[str, Any] = {}  # name -> seed, or the state that a generator was in when the run began
    command: tuple[str, ...] = ()  # of a script: how it was started
    cwd: str = ""  # of a script: where, from the project's folder
    name: str = ""
    experiment: str = "0"  # id
    parent: str = ""  # the run it was started inside of
    deleted: datetime | None = None
    counts: dict[str, int] = {}  # params, metrics, tags, points: of all there are, when it ended
    seal: str = (
        ""  # digest of its rows outside the ledger (facts, heads of histories, artifacts), when it ended
    )


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that are looked at together; every run is in one, in "0" (Default) when nothing else is said."""

    id: str
    name: str
    created: datetime
    updated: datetime
    lifecycle: Literal["active", "deleted"] = "active"
    tags: dict[str, str] = {}
    artifact_location: str = ""


class Field(msgspec.Struct, frozen=True):
    """One input or output of a model. ``shape`` counts -1 for the batch."""

    name: str
    datatype: str  # the Open Inference Protocol's names: FP32, INT64, BYTES, ...
    shape: tuple[int, ...] = (-1, 1)
    nullable: bool = True


class Signature(msgspec.Struct, frozen=True):
    """What goes in and what comes out, in order."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]


class RegisteredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that has versions: what it is called now, what it is for, and who must approve it.

    ``family`` is the name it was given first. It never changes and is never given to another model: aliases are keyed
    on it, and versions keep the ref they were registered under, so that lineage survives a renaming.
    """

    name: str
    family: str
    created: datetime
    updated: datetime
    former: tuple[str, ...] = ()  # names it had before; they go on finding it
    last: int = 0  # the highest number a version was given; none is given twice
    description: str = ""
    tags: dict[str, str] = {}
    roles: tuple[str, ...] = ()  # all of these approve a version before a protected alias may point at it
    protected: tuple[str, ...] = ("champion", "Production")  # aliases and stages
    deleted: bool = False


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One registered model, as it was."""

    name: str  # as it was registered; the model may be called otherwise by now
    number: int
    artifact: str  # digest of the serving bytes
    format: str  # onnx, pickle, skops, xgboost, lightgbm, torch, python or mlmodel
    signature: Signature
    created: datetime
    run: str | None = None
    native: str | None = (
        None  # digest of the native model, which is the artifact itself when it serves as it is
    )
    native_format: str = "pickle"  # of those bytes
    training: dict[str, str] = {}  # role -> digest or ref of the training data
    feature_service: str | None = None  # name@version
    gate: str | None = None  # id of the gate's report
    metrics: dict[str, float] = {}
    export: dict[str, Any] = {}  # how equal the export was proved: rows, largest_difference, tolerance
    note: str = ""
    family: str = ""  # of its RegisteredModel; "" is the same as the name
    description: str = ""
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    example: dict[str, Any] = {}  # one row that it was shown when it was registered
    stage: str = "None"  # as MLflow's: None, Staging, Production, Archived
    source: str = ""  # where a client of MLflow said it lay: runs:/…, models:/m-…, mlflow-artifacts:/…
    run_link: str = ""
    logged_model: str = ""  # m-…
    status: str = "READY"
    by: str = ""  # who registered it
    updated: datetime | None = None  # None: as it was created
    deleted: bool = False  # hidden, and kept for what was made with it; its number is never given again

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def kin(self) -> str:
        """The family it belongs to."""
        return self.family or self.name


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What a version that MLflow wrote serves as, found out when a person first deployed it."""

    model: str  # ref
    artifact: str  # digest: of a proved export, or of the folder's manifest
    format: str
    signature: Signature
    facts: dict[str, Any] = {}  # how equal the export was proved, or why there is none


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """Someone's word, in a role, that one version may serve; good for exactly these bytes."""

    model: str  # ref
    role: str
    by: str
    at: datetime
    artifact: str
    note: str = ""
    withdrawn: bool = False

    @property
    def key(self) -> str:
        return f"{self.model}/{self.role}"


class ModelSignature(msgspec.Struct, frozen=True, kw_only=True):
    """An Ed25519 signature of what a version is: its ref, bytes, inputs and outputs, and what it was made from."""

    model: str  # ref
    key_id: str
    public: str  # the public key, base64
    statement: str  # the text that was signed
    signature: str  # base64, of the statement
    by: str
    at: datetime

    @property
    def key(self) -> str:
        return f"{self.model}/{self.key_id}"


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key whose signatures count."""

    key_id: str
    public: str  # base64
    owner: str
    at: datetime
    by: str
    withdrawn: bool = False


class LoggedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a run wrote down (``m-…``), registered or not. Its files are artifacts of its id."""

    id: str
    experiment: str  # id
    name: str
    created: datetime
    updated: datetime
    status: Literal["pending", "ready", "failed"] = "pending"
    model_type: str = ""
    run: str = ""  # that made it
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    deleted: datetime | None = None


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Data as another tool described it when a run read it. Its key is the digest of the whole description."""

    name: str
    digest: str  # the tool's own
    source_type: str
    content: str  # digest of the blob: name, digest, source, schema, profile
    first: datetime  # when a run first read it


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A name that points at a version now; its history is the events that set it."""

    model: str
    alias: str
    number: int
    set_at: datetime
    because: str = ""  # decision id, or a person's words

    @property
    def key(self) -> str:
        return f"{self.model}@{self.alias}"


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint promises, apart from which versions answer (that is its :class:`Route`)."""

    name: str
    model: str
    deadline_ms: int = 1000
    candidate_share: float = 0.5
    sticky_key: str | None = None


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One version that may answer, and the probability that it does."""

    model: str  # ref, delays@7
    weight: float
    role: Literal["champion", "candidate"]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint serves: all at one time. ``champion`` answers whenever an arm can't."""

    endpoint: str
    generation: int
    arms: tuple[Arm, ...]
    shadows: tuple[str, ...] = ()
    sticky_key: str | None = None
    set_at: datetime
    because: str = ""

    @property
    def champion(self) -> str:
        return next(arm.model for arm in self.arms if arm.role == "champion")

    @property
    def candidate(self) -> Arm | None:
        return next((arm for arm in self.arms if arm.role == "candidate"), None)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, over which window, and what was found."""

    id: str
    kind: str  # "contract", "gate", "quality", "drift", "skew"
    subject: str
    at: datetime
    passed: bool
    summary: str
    evidence: dict[str, Any]
    since: datetime | None = None
    until: datetime | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What an automaton decided, written with its evidence *before* it acts."""

    id: str
    at: datetime
    policy: str
    subject: str  # endpoint, model or view
    action: str  # "canary.start", "canary.ramp", "promote", "rollback", "retrain", "quarantine", ...
    arguments: dict[str, Any]
    because: str  # one sentence with the numbers
    evidence: dict[str, Any]  # statistic, threshold, counts, report ids
    state: Literal["decided", "done", "failed"] = "decided"
    outcome: dict[str, Any] = {}


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """Something is wrong, from when to when, and why."""

    id: str
    cause: str  # a class of the cause table: "upstream_data_bug", "storm", "bad_release", ...
    subject: str
    opened: datetime
    because: str
    evidence: dict[str, Any] = {}
    closed: datetime | None = None
    closed_because: str = ""
