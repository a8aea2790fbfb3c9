"""Commands about the risk policy: check, explain, diff; reviews, overrides, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import (
    AsJson,
    Dataset,
    Root,
    RunId,
    common,
    out,
    print_json,
    resolve,
    root_folder,
    show,
)

app = typer.Typer(no_args_is_help=True, help="The risk policy: check it, read it, compare it.")
review_app = typer.Typer(no_args_is_help=True, help="Records that a person should look at.")
override_app = typer.Typer(no_args_is_help=True, help="What persons decided; no rerun changes it.")
calibrate_app = typer.Typer()

Who = Annotated[str, typer.Option(help="Who decides.")]
Why = Annotated[str, typer.Option(help="Reason.")]
Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="Days until it expires.")]
Level = Annotated[str, typer.Argument(help="high or low")]


@app.command(epilog="Example: `r2u policy check policy.yaml -d people.yaml`")
def check(
    path: Annotated[Path | None, typer.Argument(help="A policy; the dataset's if absent.")] = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
) -> None:
    """Check a policy against the declaration; every mistake at once, each with its path."""
    from governance.declaration import load_declaration
    from governance.policy import load_policy

    declaration = load_declaration(resolve(dataset, root_folder(dataset, root)))
    policy = load_policy(path or declaration.policy_path, declaration)
    out.print(f"[green]ok[/] {policy.name} v{policy.version}: {len(policy.rules)} rules")
    out.print(policy.digest, soft_wrap=True)


@app.command(epilog="Example: `r2u policy explain -d people.yaml`")
def explain(dataset: Dataset = EMBEDDED_DIGITS, root: Root = None) -> None:
    """Say in words what the policy does."""
    from r2u_tasks.stages.policies import explain_policy

    for line in explain_policy(**_place(dataset, root))["lines"]:
        out.print(escape(line), soft_wrap=True)


@app.command(epilog="Example: `r2u policy diff changed.yaml -d people.yaml`")
def diff(
    new: Annotated[Path, typer.Argument(help="The changed policy.")],
    old: Annotated[Path | None, typer.Option(help="Compare with this one.")] = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Show changed rules and, with an ingested table, which records change their level."""
    from r2u_tasks.stages.policies import compare_policies

    before = None if old is None else str(old)
    result = compare_policies(new=str(new), old=before, **_place(dataset, root))
    if as_json:
        print_json(result)
        return
    for line in result["changes"] or ["no difference"]:
        out.print(escape(line), soft_wrap=True)
    data = result.get("data")
    if data is None:
        out.print("no ingested table: run `r2u classify` to see which records move")
        return
    moved = ", ".join(f"{n} {way.replace('_', ' ')}" for way, n in sorted(data["moved"].items()))
    out.print(f"records that change their level: {moved or 'none'}")
    for rules, count in data["by_rules"].items():
        out.print(escape(f"  {count} {rules.replace('_', ' ', 2)}"), soft_wrap=True)


@review_app.command("list")
def review_list(
    dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False
) -> None:
    """List groups of records in the review band, in counts; they count as high meanwhile."""
    from r2u_tasks.stages.review import list_reviews

    groups = list_reviews(**_place(dataset, root))["groups"]
    if as_json:
        print_json(groups)
        return
    table = Table("group", "records", "subjects", "probability", "rules")
    for group in groups:
        counts = (str(group["n_records"]), str(group["n_subjects"]))
        table.add_row(
            group["group"], *counts, f"{group['probability']:.2f}", ", ".join(group["rules"])
        )
    out.print(table if groups else "nothing to review")


@review_app.command("answer", epilog="Example: `r2u review answer 1f3a… low --who dpo --why ok`")
def review_answer(
    group: Annotated[str, typer.Argument(help="Group from `r2u review list`, or all.")],
    level: Level,
    who: Who,
    why: Why,
    days: Days = 180,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
) -> None:
    """Answer for a group; it takes effect with the next `r2u classify`, until it expires."""
    from r2u_tasks.stages.review import answer_review, list_reviews

    place = _place(dataset, root)
    every = [found["group"] for found in list_reviews(**place)["groups"]]
    groups = every if group == "all" else [group]
    result = answer_review(groups=groups, level=level, who=who, why=why, valid_days=days, **place)
    show(result, False, ("overrides", "level"))


@override_app.command("add", epilog="Example: `r2u override add high --subject p-17 --who dpo …`")
def override_add(
    level: Level,
    who: Who,
    why: Why,
    subject: Annotated[str | None, typer.Option(help="One subject.")] = None,
    record: Annotated[list[str] | None, typer.Option(help="A record; may be repeated.")] = None,
    records: Annotated[Path | None, typer.Option(help="File with a record id a line.")] = None,
    stratum: Annotated[
        list[str] | None, typer.Option(help="column=value; several must hold together.")
    ] = None,
    days: Days = 365,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
) -> None:
    """Fix the level of a subject, of records, or of a stratum, until it expires."""
    from r2u_tasks.stages.review import set_override

    values = dict(part.partition("=")[::2] for part in stratum or [])
    result = set_override(
        level=level,
        who=who,
        why=why,
        valid_days=days,
        subject_id=subject,
        record_ids=record or (),
        record_file=None if records is None else str(records),
        stratum=values or None,
        **_place(dataset, root),
    )
    show(result, False, ("override_id", "kind", "level", "n_keys", "expires_at"))


@override_app.command("list")
def override_list(
    dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False
) -> None:
    """List overrides in force, answers under another policy, and what has expired."""
    from r2u_tasks.stages.review import list_overrides

    found = list_overrides(**_place(dataset, root))
    if as_json:
        print_json(found)
        return
    table = Table("override", "state", "kind", "level", "who", "why", "expires")
    for state in ("active", "superseded", "expired"):
        for row in found[state]:
            shown = (row["override_id"], state, row["kind"], row["level"], row["who"], row["why"])
            table.add_row(*(escape(text) for text in shown), row["expires_at"][:10])
    out.print(table)


@override_app.command("end")
def override_end(
    override_id: Annotated[str, typer.Argument(help="From `r2u override list`.")],
    who: Who,
    why: Why,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
) -> None:
    """Withdraw an override before it expires."""
    from r2u_tasks.stages.review import end_override

    place = _place(dataset, root)
    show(end_override(override_id=override_id, who=who, why=why, **place), False, None)


@calibrate_app.command(epilog="Examples: `r2u calibrate`, `r2u calibrate --accept RUN --who dpo`")
def calibrate(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
    accept: Annotated[str | None, typer.Option(help="Accept the proposal of this run.")] = None,
    who: Annotated[str, typer.Option(help="Who accepts.")] = "",
) -> None:
    """Hold the classification against the requests so far, and propose a changed policy."""
    from r2u_tasks.stages import calibrate as stage

    place = common(dataset, root, run_id)
    if accept is not None:
        show(stage.accept_proposal(who=who, **{**place, "run_id": accept}), as_json, None)
        return
    result = stage.calibrate(**place)
    names = ("observed_days", "recall_subjects", "precision_records", "brier", "misses")
    show({"run": place["run_id"], **result}, as_json, ("run", *names))
    if not as_json:
        drift = result["drift"]
        state = "[red]ALARM[/]" if drift["alarm"] else "no alarm"
        out.print(f"drift: {state}, e-value {drift['e_value']:.2f} of {drift['threshold']:.0f}")
        proposal = result["proposal"]
        for line in [] if proposal is None else proposal["changes"]:
            out.print(escape(f"proposed {line}"), soft_wrap=True)
        if proposal is not None:
            out.print(f"proposed policy: {proposal['path']}", soft_wrap=True)


def _place(dataset: str, root: Path | None) -> dict[str, str]:
    return {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
