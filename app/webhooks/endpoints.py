"""Webhook endpoints over HTTP: create, change, test and remove them; see and repeat what they were told."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response

from app.auth.dependencies import WebhooksManage
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.http import ids, pagination
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import DeliveryId, EndpointId
from app.http.outbound import Reach
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses
from app.http.routing import router as new_router
from app.webhooks import schemas, service
from app.webhooks.schemas import (
    Delivery,
    DeliveryInFull,
    DeliveryState,
    Endpoint,
    EndpointChange,
    EndpointCreate,
    EndpointWithSecret,
    ReplayIn,
    ReplayOut,
)

router = new_router("/v1/webhook-endpoints", tag="Webhooks")

LIST = "webhook-endpoints"


def _reach(request: Request) -> Reach:
    found: Reach = request.app.state.reach
    return found


ReachDep = Annotated[Reach, Depends(_reach)]


@router.post("", status_code=201, responses=responses(Conflict, Forbidden, Invalid))
def create_endpoint(
    body: EndpointCreate,
    session: SessionDep,
    caller: WebhooksManage,
    keys: KeyringDep,
    reach: ReachDep,
    now: NowDep,
    response: Response,
) -> EndpointWithSecret:
    """Have a URL told of events from now on; the secret is in this answer and nowhere else, ever."""
    shown = service.create(
        session,
        url=body.url,
        wanted=body.events,
        seal=keys.webhooks,
        reach=reach,
        by=caller.principal_id,
        at=now,
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Location"] = f"{router.prefix}/{ids.encode('whe', shown.endpoint.id)}"
    return schemas.with_secret(shown)


@router.get("", responses=responses(Forbidden, Invalid))
def list_endpoints(
    session: SessionDep,
    _caller: WebhooksManage,
    keys: KeyringDep,
    now: NowDep,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[Endpoint]:
    """List endpoints, newest first."""
    place = pagination.decode(keys.cursor, cursor, of=LIST)
    after = (place.created_at, place.id) if place else None
    found = service.listing(session, after=after, limit=limit + 1, at=now)
    last = found[limit - 1].endpoint if len(found) > limit else None
    return Page(
        items=[schemas.endpoint(each) for each in found[:limit]],
        next=pagination.encode(keys.cursor, Place(last.created_at, last.id), of=LIST) if last else None,
    )


@router.get("/{endpoint_id}", responses=responses(Forbidden, NotFound))
def read_endpoint(
    endpoint_id: EndpointId, session: SessionDep, _caller: WebhooksManage, now: NowDep
) -> Endpoint:
    """Read an endpoint: what it wants, whether it takes it."""
    return schemas.endpoint(service.read(session, endpoint_id, at=now))


@router.patch("/{endpoint_id}", responses=responses(Forbidden, Invalid, NotFound))
def change_endpoint(
    endpoint_id: EndpointId,
    body: EndpointChange,
    session: SessionDep,
    caller: WebhooksManage,
    reach: ReachDep,
    now: NowDep,
) -> Endpoint:
    """Change where or what an endpoint is told; disable it, or enable it again from now on."""
    shown = service.change(
        session,
        endpoint_id,
        url=body.url,
        wanted=body.events,
        active=None if body.state is None else body.state == "active",
        reach=reach,
        by=caller.principal_id,
        at=now,
    )
    return schemas.endpoint(shown)


@router.delete("/{endpoint_id}", status_code=204, responses=responses(Forbidden, NotFound))
def remove_endpoint(
    endpoint_id: EndpointId, session: SessionDep, caller: WebhooksManage, now: NowDep
) -> None:
    """End an endpoint for good; its keys are destroyed."""
    service.remove(session, endpoint_id, by=caller.principal_id, at=now)


@router.post(
    "/{endpoint_id}/secret-rotations",
    status_code=201,
    responses=responses(Conflict, Forbidden, NotFound),
)
def rotate_secret(
    endpoint_id: EndpointId,
    session: SessionDep,
    caller: WebhooksManage,
    keys: KeyringDep,
    now: NowDep,
    response: Response,
) -> EndpointWithSecret:
    """Make new keys; for 24 hours messages are signed with the old ones too."""
    shown = service.rotate(session, endpoint_id, seal=keys.webhooks, by=caller.principal_id, at=now)
    response.headers["Cache-Control"] = "no-store"
    return schemas.with_secret(shown)


@router.post("/{endpoint_id}/tests", status_code=202, responses=responses(Conflict, Forbidden, NotFound))
def try_endpoint(
    endpoint_id: EndpointId, session: SessionDep, _caller: WebhooksManage, now: NowDep, response: Response
) -> Delivery:
    """Send the event `webhook.test`; `Location` tells how it went."""
    told = service.probe(session, endpoint_id, at=now)
    here = f"{router.prefix}/{ids.encode('whe', endpoint_id)}/deliveries"
    response.headers["Location"] = f"{here}/{ids.encode('whd', told.delivery.id)}"
    return schemas.delivery(told)


@router.post(
    "/{endpoint_id}/replays", status_code=202, responses=responses(Conflict, Forbidden, Invalid, NotFound)
)
def replay_events(
    endpoint_id: EndpointId, body: ReplayIn, session: SessionDep, caller: WebhooksManage, now: NowDep
) -> ReplayOut:
    """Deliver a range of the audit sequence once more; messages keep their ids."""
    count = service.replay(
        session,
        endpoint_id,
        first=body.from_sequence,
        last=body.to_sequence,
        by=caller.principal_id,
        at=now,
    )
    return ReplayOut(messages=count)


@router.get("/{endpoint_id}/deliveries", responses=responses(Forbidden, Invalid, NotFound))
def list_deliveries(
    endpoint_id: EndpointId,
    session: SessionDep,
    _caller: WebhooksManage,
    keys: KeyringDep,
    state: Annotated[DeliveryState | None, Query(description="Only these.")] = None,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[Delivery]:
    """List what an endpoint was told, newest first; kept for 30 days."""
    of = f"webhook-deliveries {endpoint_id} {state}"
    place = pagination.decode(keys.cursor, cursor, of=of)
    after = (place.created_at, place.id) if place else None
    found = service.deliveries(session, endpoint_id, state=state, after=after, limit=limit + 1)
    last = found[limit - 1].delivery if len(found) > limit else None
    return Page(
        items=[schemas.delivery(each) for each in found[:limit]],
        next=pagination.encode(keys.cursor, Place(last.created_at, last.id), of=of) if last else None,
    )


@router.get("/{endpoint_id}/deliveries/{delivery_id}", responses=responses(Forbidden, NotFound))
def read_delivery(
    endpoint_id: EndpointId, delivery_id: DeliveryId, session: SessionDep, _caller: WebhooksManage
) -> DeliveryInFull:
    """Read a delivery: the body as it was signed, and every attempt."""
    return schemas.in_full(service.delivery(session, endpoint_id, delivery_id))


@router.post(
    "/{endpoint_id}/deliveries/{delivery_id}/redelivery",
    status_code=202,
    responses=responses(Conflict, Forbidden, NotFound),
)
def redeliver(
    endpoint_id: EndpointId,
    delivery_id: DeliveryId,
    session: SessionDep,
    caller: WebhooksManage,
    now: NowDep,
) -> Delivery:
    """Deliver a message once more, under the id that it has."""
    told = service.redeliver(session, endpoint_id, delivery_id, by=caller.principal_id, at=now)
    return schemas.delivery(told)
