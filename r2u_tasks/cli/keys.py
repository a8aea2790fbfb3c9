"""Commands about keys: show, rotate (signing); list, rotate-pseudonyms, drop (pseudonyms)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from governance.declaration import EMBEDDED_DIGITS
from governance.errors import PermanentError
from r2u_tasks.cli.console import AsJson, Dataset, Root, out, root_folder, show

if TYPE_CHECKING:
    from governance.signing import Signer

app = typer.Typer(
    no_args_is_help=True,
    help="Show and rotate the signing key and the pseudonym key (docs/keys.md).",
)


@app.command("show", epilog="Example: `r2u keys show -d people.yaml`")
def keys_show(
    dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False
) -> None:
    """Show which key signs, and which keys the ledger knows."""
    from governance.signing import PUBLIC_NAME, key_id
    from governance.verifier import CheckFailedError, read_chain
    from governance.workspace import open_workspace

    workspace = open_workspace(str(root_folder(dataset, root)))
    path = workspace.keys / PUBLIC_NAME
    if not path.exists():
        message = f"keys: expected {PUBLIC_NAME} in {workspace.keys}, got none; no stage ran yet"
        raise PermanentError(message)
    pem = path.read_bytes()
    try:
        chain = read_chain(workspace.ledger, pem, torn=True) if workspace.ledger.exists() else None
    except CheckFailedError as error:
        message = f"keys: expected a ledger that {PUBLIC_NAME} verifies, got: {error}"
        raise PermanentError(message) from error
    known = [] if chain is None else [f"from entry {n}: {key_id(p)}" for n, p in chain.keys]
    show({"public_key": str(path), "key": key_id(pem), "ledger": known}, as_json, None)


@app.command(
    "rotate",
    epilog="Examples: `r2u keys rotate`; `r2u keys rotate --to hook:my_keys:signer`. A rotation "
    "that was interrupted is finished by the same command.",
)
def keys_rotate(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    target: Annotated[
        str | None,
        typer.Option("--to", help="hook:MODULE:CALLABLE or file:PATH; default: a new key file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Introduce a new signing key: the old one signs it into the ledger, then it signs alone."""
    import os

    from governance.ledger import Ledger
    from governance.signing import HOOK_VARIABLE, KEY_VARIABLE, adopt_key, key_id, signer_in_use
    from governance.workspace import open_workspace

    workspace = open_workspace(str(root_folder(dataset, root)))
    elsewhere = [name for name in (HOOK_VARIABLE, KEY_VARIABLE) if os.environ.get(name)]
    if target is None and elsewhere:
        message = f"keys rotate: the key comes from {elsewhere[0]}; expected --to with the next one"
        raise PermanentError(message)
    new = _next_signer(workspace.keys, target)
    old = signer_in_use(workspace.keys, os.environ)
    entry = Ledger(workspace.ledger, old).rotate(new)
    adopt_key(workspace.keys, new)
    result = {"key": key_id(new.public_pem), "ledger_entry": entry["seq"]}
    show(result, as_json, None)
    if not as_json:
        out.print("Hand the new signing.pub.pem to your auditors; old certificates still verify.")
        if target is not None:
            out.print("From now on the stages have to find the new key: see docs/keys.md.")


@app.command("list", epilog="Example: `r2u keys list -d people.yaml`")
def keys_list(
    dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False
) -> None:
    """List the pseudonym keys by their ids, and what still needs each of them."""
    from r2u_tasks.stages.pseudonym_keys import list_pseudonym_keys

    found = list_pseudonym_keys(dataset=dataset, root_uri=str(root_folder(dataset, root)))
    if as_json:
        show(found, as_json, None)
        return
    out.print(f"keys from {found['source']}", highlight=False, soft_wrap=True)
    for one in found["keys"]:
        needed = ", ".join(f"{n} {what}" for what, n in one["needed_by"].items())
        note = "nothing needs it: r2u keys drop" if one["can_be_dropped"] else needed or "-"
        out.print(f"{one['key']}  {one['role']:8}  {note}", highlight=False, soft_wrap=True)
    if found["rotation_unfinished"]:
        out.print("A rotation was begun and not finished: r2u keys rotate-pseudonyms")


@app.command(
    "rotate-pseudonyms",
    epilog="Examples: `r2u keys rotate-pseudonyms`; `r2u keys rotate-pseudonyms --from "
    "3f1c0a9b77d2`. A rotation that was interrupted is finished by the same command.",
)
def keys_rotate_pseudonyms(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    only_from: Annotated[
        str | None,
        typer.Option("--from", help="Id of the key that is to go; if it went, nothing is done."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make new pseudonyms under a new key; what is under the former one is still recognised."""
    from r2u_tasks.stages.pseudonym_keys import rotate_pseudonyms

    place = {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
    result = rotate_pseudonyms(**place, only_from=only_from)
    show(result, as_json, None)
    if not as_json and result["rotated"]:
        out.print("Back up the new key now, apart from the tables. The former one is still needed:")
        out.print("`r2u keys list` says by what.")


@app.command("drop", epilog="Example: `r2u keys drop 3f1c0a9b77d2`")
def keys_drop(
    key: Annotated[str, typer.Argument(help="Id of an earlier pseudonym key.")],
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Delete an earlier pseudonym key that nothing needs any more."""
    from r2u_tasks.stages.pseudonym_keys import drop_pseudonym_key

    place = {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
    show(drop_pseudonym_key(key_id=key, **place), as_json, None)


def _next_signer(folder: Path, target: str | None) -> Signer:
    from governance.signing import load_hook, make_next_key, read_key_file

    if target is None:
        return make_next_key(folder)
    kind, _, name = target.partition(":")
    if kind == "hook":
        return load_hook(name)
    if kind == "file":
        return read_key_file(Path(name))
    message = f"keys rotate --to: expected hook:MODULE:CALLABLE or file:PATH, got {target}"
    raise PermanentError(message)
