"""`lethe webhook`: have a URL told of what happens; see what it was told, and tell it again."""

from typing import Annotated, Any

import typer

from app.cli.client import Api, chosen, err, out, show, table

webhook = typer.Typer(
    no_args_is_help=True,
    help="Webhooks: have a URL told of what happens, see what it was told, tell it again.",
)

LIMIT = 20
PATH = "/v1/webhook-endpoints"
Endpoint = Annotated[str, typer.Argument(help="whe_...")]
Delivery = Annotated[str, typer.Argument(help="whd_...")]
Events = Annotated[
    list[str] | None, typer.Option("--event", help="A kind or a family: request.moved, 'certificate.*'.")
]


@webhook.command("add")
def add_endpoint(
    url: Annotated[
        str, typer.Argument(help="Where to: https, and public unless LETHE_OUTBOUND_HOSTS says so.")
    ],
    event: Events = None,
) -> None:
    """Have a URL told of events from now on; its secret is printed once.

    Example: lethe webhook add https://hooks.example/lethe --event 'request.*' --event certificate.released
    """
    _show_secret(_api().post(PATH, {"url": url, "events": event or ["request.*", "certificate.*"]}))


@webhook.command("list")
def list_endpoints(limit: Annotated[int, typer.Option(help="How many at most.")] = LIMIT) -> None:
    """List endpoints, newest first."""
    rows = [{**each, "kinds": ", ".join(each["events"])} for each in _api().pages(PATH, limit=limit)]
    columns = {"id": "endpoint", "state": "state", "reason": "why", "waiting": "waiting"}
    table(rows, columns | {"kinds": "events", "url": "url"})


@webhook.command("show")
def show_endpoint(endpoint: Endpoint) -> None:
    """Show an endpoint: what it wants, and whether it takes it."""
    _show(_api().get(f"{PATH}/{endpoint}"))


@webhook.command("change")
def change_endpoint(
    endpoint: Endpoint,
    url: Annotated[str | None, typer.Option(help="Where to from now on.")] = None,
    event: Events = None,
) -> None:
    """Tell an endpoint elsewhere, or of something else."""
    said = {"url": url, "events": event}
    _change(endpoint, {name: value for name, value in said.items() if value})


@webhook.command("disable")
def disable_endpoint(endpoint: Endpoint) -> None:
    """Tell an endpoint nothing more; what it was about to be told is not told either."""
    _change(endpoint, {"state": "disabled"})


@webhook.command("enable")
def enable_endpoint(endpoint: Endpoint) -> None:
    """Tell an endpoint again, from now on; `replay` tells it what it missed."""
    _change(endpoint, {"state": "active"})


@webhook.command("remove")
def remove_endpoint(endpoint: Endpoint) -> None:
    """End an endpoint for good; its keys are destroyed."""
    _api().send("DELETE", f"{PATH}/{endpoint}")
    err.print("removed")


@webhook.command("rotate")
def rotate_secret(endpoint: Endpoint) -> None:
    """Make new keys, printed once; for 24 hours messages are signed with the old ones too."""
    _show_secret(_api().post(f"{PATH}/{endpoint}/secret-rotations"))


@webhook.command("test")
def try_endpoint(endpoint: Endpoint) -> None:
    """Send the event `webhook.test`, and show how it went.

    Example: lethe webhook test whe_01jd...
    """
    api = _api()
    sent = api.post(f"{PATH}/{endpoint}/tests")
    _show_delivery(
        api.follow(
            f"{PATH}/{endpoint}/deliveries/{sent['id']}",
            says="testing",
            done=lambda body: body["state"] != "pending" or bool(body["tried"]),
            share=lambda _body: (0.0, "waiting for the worker"),
        )
    )


@webhook.command("deliveries")
def list_deliveries(
    endpoint: Endpoint,
    state: Annotated[str | None, typer.Option(help="pending, delivered, failed or stopped.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = LIMIT,
) -> None:
    """List what an endpoint was told, newest first."""
    columns = {"id": "delivery", "event": "event", "sequence": "sequence", "state": "state"}
    table(
        _api().pages(f"{PATH}/{endpoint}/deliveries", limit=limit, state=state),
        columns | {"attempts": "attempts", "status": "status", "error": "error", "next_at": "next"},
    )


@webhook.command("delivery")
def show_delivery(endpoint: Endpoint, delivery: Delivery) -> None:
    """Show a delivery: the body as it was signed, and every attempt."""
    _show_delivery(_api().get(f"{PATH}/{endpoint}/deliveries/{delivery}"))


@webhook.command("redeliver")
def redeliver(endpoint: Endpoint, delivery: Delivery) -> None:
    """Deliver a message once more, under the id that it has."""
    body = _api().post(f"{PATH}/{endpoint}/deliveries/{delivery}/redelivery")
    show(body, {"delivery": body["id"], "state": body["state"]})


@webhook.command("replay")
def replay(
    endpoint: Endpoint,
    first: Annotated[int, typer.Argument(help="From this place of the audit sequence on.")],
    last: Annotated[int | None, typer.Argument(help="Up to this one; by default the newest.")] = None,
) -> None:
    """Deliver what happened in a range of the audit sequence, once more or at last.

    Example: lethe webhook replay whe_01jd... 120 180
    """
    said = {"from_sequence": first} | ({} if last is None else {"to_sequence": last})
    body = _api().post(f"{PATH}/{endpoint}/replays", said)
    show(body, {"messages": body["messages"]})


def _api() -> Api:
    return Api("admin")


def _change(endpoint: str, body: dict[str, Any]) -> None:
    _show(_api().send("PATCH", f"{PATH}/{endpoint}", body=body).json())


def _show(body: dict[str, Any]) -> None:
    lines = {name: body[name] for name in ("id", "url", "state", "reason", "failing_since", "waiting")}
    lines |= {"events": ", ".join(body["events"]), "public keys": ", ".join(body["public_keys"])}
    show(body, lines)


def _show_secret(body: dict[str, Any]) -> None:
    _show(body)
    if not chosen.as_json:
        out.print(f"[bold]secret[/]  {body['secret']}", soft_wrap=True)
        err.print("The secret is shown this once; receivers check `v1` signatures with it.", style="dim")


def _show_delivery(body: dict[str, Any]) -> None:
    names = ("id", "message", "event", "sequence", "state", "attempts", "status", "error", "next_at", "body")
    lines = {name: body[name] for name in names}
    for each in body["tried"]:
        how = each["status"] or each["error"]
        lines[f"attempt {each['number']}"] = f"{each['at']}  {how}  {each['milliseconds']} ms"
    show(body, lines)
