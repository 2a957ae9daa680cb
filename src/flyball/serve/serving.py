"""A plan in memory: endpoints with their models loaded. Swapped whole; a request holds on to the one it began with."""

from __future__ import annotations

from collections.abc import Mapping

from flyball.core.plan import Endpoint, Plan, ServedModel
from flyball.errors import FlyballError, NotFound, Unavailable, nearest
from flyball.models.signing import verify_served
from flyball.serve.breaker import Breaker
from flyball.serve.features import FeatureAnswers
from flyball.serve.lookup import lookup_for
from flyball.serve.metrics import Metrics
from flyball.serve.router import Router
from flyball.serve.runtime import LoadedModel, load
from flyball.stores.blobs import Blobs


class LoadedEndpoint:
    """One endpoint, ready to answer. ``broken`` models are named by the route and could not be loaded."""

    def __init__(
        self,
        endpoint: Endpoint,
        router: Router,
        models: Mapping[str, LoadedModel],
        broken: Mapping[str, str],
        breaker: Breaker,
        *,
        online: str,
        metrics: Metrics,
    ) -> None:
        self.name = endpoint.name
        self.endpoint = endpoint
        self.router = router
        self.models = models
        self.broken = broken
        self.breaker = breaker
        self.champion = models[router.champion]
        self.candidate = models.get(router.candidate or "")
        self.signature = self.champion.signature
        self.lookup = lookup_for(endpoint, self.signature, online, metrics)
        self.shadows = tuple(models[ref] for ref in endpoint.route.shadows if ref in models)
        self.candidate_s = endpoint.deadline_ms * endpoint.candidate_share / 1000.0

    @property
    def rho(self) -> float:
        """The probability of the candidate now: 0 once the breaker has tripped."""
        return 0.0 if self.breaker.tripped else self.router.rho

    def model(self, version: str) -> LoadedModel:
        """The version that a client names: its number, or its whole ref."""
        for ref, model in self.models.items():
            if version in (ref, ref.rpartition("@")[2]):
                return model
        known = [ref.rpartition("@")[2] for ref in self.models]
        raise NotFound(
            f"{self.name!r} serves no version {version!r}", nearest(version, known), endpoint=self.name
        )


class Serving:
    """All endpoints at one generation. ``failures`` says which model (or endpoint) did not load, and why."""

    def __init__(
        self,
        plan: Plan,
        endpoints: Mapping[str, LoadedEndpoint],
        failures: Mapping[str, str],
        features: FeatureAnswers | None = None,
    ) -> None:
        self.plan = plan
        self.features = features or FeatureAnswers(plan, Metrics())
        self.endpoints = endpoints
        self.failures = failures

    def endpoint(self, name: str) -> LoadedEndpoint:
        """The endpoint, or why there is none."""
        found = self.endpoints.get(name)
        if found is not None:
            return found
        if name in self.plan.endpoints:
            raise Unavailable(
                f"the endpoint {name!r} could not be loaded: {self.failures.get(name, 'unknown')}",
                "flyball endpoints show says what it needs",
                endpoint=name,
            )
        raise NotFound(
            f"no endpoint {name!r}", nearest(name, list(self.plan.endpoints)), endpoint=name, field="endpoint"
        )


NOTHING = Serving(Plan(generation=0), {}, {})


def load_plan(plan: Plan, before: Serving, metrics: Metrics) -> Serving:
    """Load what the plan names, reusing what is in memory already. Never raises: see ``failures``."""
    failures: dict[str, str] = {}
    endpoints: dict[str, LoadedEndpoint] = {}
    in_memory = {
        (model.ref, model.artifact): model
        for old in before.endpoints.values()
        for model in old.models.values()
    }
    code_missing = _take_code(plan)
    for name, endpoint in plan.endpoints.items():
        models: dict[str, LoadedModel] = {}
        broken: dict[str, str] = {}
        for ref, served in endpoint.models.items():
            try:
                models[ref] = _model(served, plan, in_memory)
            except FlyballError as error:
                broken[ref] = error.what
                failures[ref] = error.what
        try:
            if code_missing is not None and any(one.get("code") for one in endpoint.on_demand.values()):
                raise code_missing
            old = before.endpoints.get(name)
            endpoints[name] = _endpoint(endpoint, models, broken, old, online=plan.online, metrics=metrics)
        except FlyballError as error:
            failures[name] = error.what
    same = before.plan.features == plan.features and before.plan.online == plan.online
    features = before.features if same and before is not NOTHING else FeatureAnswers(plan, metrics)
    return Serving(plan, endpoints, failures, features)


def _take_code(plan: Plan) -> FlyballError | None:
    """Make the code of on-demand functions ready; why it could not be, if it could not."""
    coded = [
        one
        for group in (plan.features.on_demand, *(endpoint.on_demand for endpoint in plan.endpoints.values()))
        for one in group.values()
        if one.get("code")
    ]
    if coded:
        from flyball.features.shipping import take

        try:
            take(coded, Blobs.open(plan.blobs).get)
        except FlyballError as error:
            return error
    return None


def _model(served: ServedModel, plan: Plan, in_memory: dict[tuple[str, str], LoadedModel]) -> LoadedModel:
    verify_served(served, keys=plan.trusted_keys, required=plan.require_signature)
    key = (served.ref, served.artifact)
    found = in_memory.get(key)
    if found is None or found.signature != served.signature or found.format != served.format:
        found = in_memory[key] = load(served, Blobs.open(plan.blobs))
    return found


def _endpoint(
    endpoint: Endpoint,
    models: dict[str, LoadedModel],
    broken: dict[str, str],
    old: LoadedEndpoint | None,
    *,
    online: str,
    metrics: Metrics,
) -> LoadedEndpoint:
    router = Router(endpoint.route)
    champion = models.get(router.champion)
    if champion is None:
        raise Unavailable(f"its champion {router.champion}: {broken.get(router.champion, 'not in the plan')}")
    if router.candidate and router.candidate not in models:
        broken.setdefault(router.candidate, "not in the plan")
    for ref, model in list(models.items()):
        if len(model.signature.inputs) != len(champion.signature.inputs):
            broken[ref] = f"takes {len(model.signature.inputs)} features, {champion.ref} another number"
            del models[ref]
    unchanged = old is not None and old.endpoint.route == endpoint.route
    breaker = old.breaker if old is not None and unchanged else Breaker(endpoint.alpha, router.rho)
    return LoadedEndpoint(endpoint, router, models, broken, breaker, online=online, metrics=metrics)
