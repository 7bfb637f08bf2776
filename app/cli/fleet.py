"""`lethe fleet`: what all verdicts show together, as one table; a cron job can watch its exit code."""

import json

import typer

from app.cli.client import EXIT_REFUSED, Api, chosen, err, out, table


def fleet() -> None:
    """Show whether erasures, all together, look as perfect ones would. Ends with 1 on an alarm.

    `low` of the requests look detected at .05; `at most` is what perfect erasure exceeds once in a
    hundred times. `evidence` is an e-value: 20 and more is an alarm.

    Example: lethe --as officer fleet
    """
    body = Api("officer").get("/v1/verification/fleet")
    if chosen.as_json:
        out.print_json(json.dumps(body))
    else:
        running = {(each["model"], each["engine"]): each["e_value"] for each in body["evidence"]}
        table(
            [{**each, "e_value": running[each["model"], each["engine"]]} for each in body["groups"]],
            {
                "model": "model", "engine": "engine", "m": "people", "requests": "requests", "low": "low",
                "low_max": "at most", "e_value": "evidence",
            },
        )  # fmt: skip
        for each in body["qualifications"]:
            out.print(
                f"{each['engine']} {each['configuration'][:12]} on {each['model']} is {each['state']}:"
                f" {each['losses']} losses of {each['sentinels']} sentinels,"
                f" risk at most {each['risk_upper']}",
                markup=False,
            )
        for each in body["survival"]:
            out.print(
                f"sentinels of {each['job']}: {each['back']} of {each['sentinels']} back in {each['on']}",
                markup=False,
            )
        for alarm in body["alarms"]:
            err.print("[bold red]alarm:[/] ", end="")
            err.print(alarm, markup=False)
    raise typer.Exit(EXIT_REFUSED if body["alarms"] else 0)
