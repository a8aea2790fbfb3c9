"""The entities: for each its finder, its data category, the words that speak for or against it.

The order is that of specificity: where two entities claim a column with equal evidence, the
earlier one has it. Categories are keys of fideslang 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from governance.scanner import contact, dates, network, payment, phones, secrets
from governance.scanner.matches import Matches
from governance.scanner.national import NATIONAL
from governance.scanner.text import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One kind of personal data."""

    name: str
    find: Callable[[Text], Matches] | None
    """Finder in text; without one, the entity is told by the column as a whole."""
    category: str
    """Data category (fideslang) that the policy editor is offered."""
    column_words: str
    """Regular expression over the words of a column's name, joined by single spaces."""
    column_against: str = ""
    """Regular expression over the same words: the name is about something else."""
    near_words: str = ""
    """Regular expression: makes a match near by certain."""
    against: str = ""
    """Regular expression: takes away a match near by that is not certain."""
    anchor: bytes = b""
    """A byte that every match holds, if one is rare in text."""
    yields_to: tuple[str, ...] = ()
    """Entities inside whose matches this one does not count."""
    doubtful: bool = False
    """Has no checksum: words against it take away a certain match, too."""
    chance: float = 0.0
    """Share of random values of the same shape that pass, as reasoned beside each entry."""


_GOODS = (
    r"order|invoice|ticket|\bref\b|reference|sku|isbn|\bean\b|upc|tracking|serial|batch|"
    r"shipment|parcel|article|\bart\b|part no|product|item|case no|transaction|amount|total|"
    r"commit|build|version|\bbytes\b|\bunits?\b|\bpart\b|bestell|rechnung|commande|facture|pedido"
)
_CALLS = r"phone|\btel\b|telefon|mobile|mobil|\bcell\b|\bfax\b|whatsapp|\bcall\b|\bsms\b|dial"
_STRONGER = ("iban", "card", "email", "url", "ip", "mac")
_SECRET = ("private_key", "jwt", "github_token", "aws_key", "api_token")
_ID = "user.government_id.national_identification_number"
_KEY = "user.authorization.credentials"


def _national(name: str, words: str, chance: float, *, doubtful: bool = False) -> Entity:
    """Make a national identifier, whose column and neighbours use the same words."""
    return Entity(
        name=name,
        find=NATIONAL[name],
        category=_ID,
        column_words=words,
        near_words=words,
        against=f"{_GOODS}|{_CALLS}",
        yields_to=(*_STRONGER, "phone_international", *_SECRET),
        doubtful=doubtful,
        chance=chance,
    )


_ALL = (
    Entity(
        name="private_key", find=secrets.find_private_key, category=_KEY, column_words=r"\bpem\b"
    ),
    Entity(name="jwt", find=secrets.find_jwt, category=_KEY, column_words=r"\bjwt\b"),
    Entity(
        name="github_token", find=secrets.find_github_token, category=_KEY, column_words="github"
    ),
    Entity(name="aws_key", find=secrets.find_aws_key, category=_KEY, column_words=r"\baws\b"),
    Entity(
        name="api_token",
        find=secrets.find_api_token,
        category=_KEY,
        column_words=r"api (key|token)|access token",
        yields_to=("github_token", "jwt"),
    ),
    Entity(
        name="email",
        find=contact.find_email,
        category="user.contact.email",
        column_words=r"e ?mails?\b|mail address",
        anchor=b"@",
    ),
    Entity(
        name="url",
        find=contact.find_url,
        category="user.contact.url",
        column_words=r"\burl\b|web ?site|home ?page|domain|\blink\b",
        yields_to=("email",),
    ),
    Entity(
        name="iban",
        find=payment.find_iban,
        category="user.financial.bank_account",
        column_words=r"\biban\b|bank ?account|konto",
        yields_to=("url", "email"),
    ),
    Entity(
        name="card",
        find=payment.find_card,
        category="user.financial.credit_card",
        column_words=r"(credit|debit|payment) ?card|card ?(no|number|num)|\bcc ?(no|number|num)\b"
        r"|\bpan\b|kreditkarte|carte bancaire",
        near_words=r"card|\bcc\b|credit|debit|visa|master ?card|amex|maestro|jcb"
        r"|diners|karte|tarjeta",
        against=_GOODS,
        yields_to=("iban", "url", "email"),
        chance=0.05,  # Luhn passes 1 in 10, the ranges about half
    ),
    Entity(
        name="mac",
        find=network.find_mac,
        category="user.device.device_id",
        column_words=r"\bmac\b",
    ),
    Entity(
        name="ip",
        find=network.find_ip,
        category="user.device.ip_address",
        column_words=r"\bip(v[46])?\b|ip ?addr",
        near_words=r"\bip(v[46])?\b|addr|host|server|client|from ",
        against=r"version|\bver\b|\brelease|firmware|\bbuild|section|chapter|\boid\b",
        doubtful=True,
        yields_to=("mac", "url"),
    ),
    _national("fi_hetu", r"hetu\b|henkil|personbeteckning", 0.001),
    _national("it_codice_fiscale", r"codice fiscale|fiscal ?code|\bcf\b|codfis", 0.001),
    _national("cn_resident_id", r"resident id|shenfen|china id|\bid card\b", 0.001),
    _national("fr_nir", r"\bnir\b|securite sociale|\binsee\b|num secu|\bsecu\b", 0.01),
    _national(
        "be_national_register", r"rijksregister|registre national|\bnrn\b|\binsz\b|\bniss\b", 0.01
    ),
    _national("no_birth_number", r"fodselsnummer|personnummer|\bfnr\b|\bd nummer", 0.003),
    _national("dk_cpr", r"\bcpr\b|personnummer", 0.02),
    _national("es_nie", r"\bnie\b|\bnif\b|extranjero", 0.04),
    _national("es_dni", r"\bdni\b|\bnif\b|documento nacional", 0.04),
    _national("uk_nino", r"\bnino\b|national insurance|\bni (no|number)\b", 0.2),
    _national("br_cpf", r"\bcpf\b|cadastro", 0.01),
    _national("se_personnummer", r"person ?nummer|personnr|samordningsnummer|swedish", 0.01),
    _national("pl_pesel", r"pesel", 0.03),
    _national("tr_kimlik", r"kimlik|\btc no\b|\btckn\b", 0.01),
    _national("de_tax_id", r"steuer|\bidnr\b|tax ?id|\btin\b|\bstidnr\b", 0.02),
    _national("in_aadhaar", r"aadh?aar|uidai", 0.08),
    _national("nl_bsn", r"\bbsn\b|burgerservice|sofi", 0.09),
    _national("uk_nhs", r"\bnhs\b|national health|patient (no|number|id)", 0.09),
    _national("ca_sin", r"\bsin\b|social insurance|\bnas\b", 0.08),
    _national("au_tfn", r"\btfn\b|tax file", 0.09),
    # Of nine digits, nearly all numbers are possible.
    _national("us_ssn", r"\bssns?\b|social ?sec|\bsoc ?sec\b", 0.88, doubtful=True),
    Entity(
        name="phone",
        find=phones.find_phone,
        category="user.contact.phone_number",
        column_words=r"phone|\btel\b|telefon|telephone|mobile?\b|\bcell\b|\bfax\b|handy|msisdn",
        near_words=_CALLS + r"|\bring\b|contact|reach (me|us)|text me|messages? to|answer|\bdesk\b",
        against=_GOODS + r"|licen[cs]e|passport|\bid\b",
        yields_to=(*_STRONGER, *NATIONAL, *_SECRET),
        chance=1.0,
    ),
    Entity(
        name="date_of_birth",
        find=dates.find_birth_date,
        category="user.demographic.date_of_birth",
        column_words=r"birth|\bdob\b|\bborn\b|geburt|\bgeb\b|naissance|nacimiento|nascita"
        r"|geboorte|syntym|urodz|fodsels?dato|fodelse",
        near_words=r"birth|\bdob\b|\bd\.o\.b|\bborn\b|geboren|geburt|\bgeb\b|naissance"
        r"|\bn.{1,4}e? le\b"
        r"|nacid|nacimient|\bnat[oa]\b|nascita|geboorte|fodt|syntynyt|urodz",
        chance=1.0,
    ),
    Entity(
        name="password",
        find=secrets.find_password,
        category="user.authorization.password",
        column_words=r"passw(or)?d|\bpwd\b|passwort|mot de passe|contrasena|\bsecret\b",
        yields_to=(*_SECRET, "url"),
    ),
    Entity(
        name="random_token",
        find=secrets.find_random_token,
        category=_KEY,
        column_words=r"\btoken\b|api ?key|\bsecret\b",
        yields_to=(*_SECRET, "url", "email", "password"),
    ),
    Entity(
        name="date",
        find=dates.find_date,
        category="",  # a date of whatever says nothing about a person
        column_words=r"\bdate\b|datum|fecha|\bday\b|\bon\b|\bat\b",
        near_words=r"\bon\b|\bdated?\b|\bsince\b|\buntil\b|\bborn\b|\bdue\b",
    ),
    Entity(
        name="username",
        find=None,
        category="user.account.username",
        column_words=r"user ?name|\blogin\b|screen ?name|\bhandle\b|benutzername",
    ),
    Entity(
        name="person_name",
        find=None,
        category="user.name",
        column_words=r"names?( \d+)?$|^name |surname|forename|vorname|\bprenom\b|^nom\b|apellidos?"
        r"|nombre|cognome|\bmaiden\b|familienname|achternaam|voornaam|imie|nazwisko|fornavn|etternavn",
        column_against=r"user|login|screen|file|product|company|business|brand|host|table|field|item"
        r"|city|country|state|street|bank|event|school|domain|store|site|\bapp\b|device|model|class"
        r"|type|category|job|team|org|project|service|\bset\b|server|group|department|column|tag",
    ),
    Entity(
        name="street_address",
        find=None,
        category="user.contact.address.street",
        column_words=r"street|\baddr(ess)?\b|strasse|\brue\b|adresse|direccion|indirizzo|endereco"
        r"|\badres\b|adress",
        column_against=r"e ?mail|\bip\b|\bmac\b|\burl\b|\bweb\b",
    ),
)


def _against_others(entity: Entity) -> Entity:
    """Add to the words against an identifier those that name another one."""
    if entity.name not in (*NATIONAL, "card", "phone"):
        return entity
    others = [
        other.column_words
        for other in _ALL
        if other.name in (*NATIONAL, "card", "iban") and other.name != entity.name
    ]
    return replace(entity, against="|".join([entity.against, *others]))


ENTITIES: dict[str, Entity] = {entity.name: _against_others(entity) for entity in _ALL}
"""Every entity by name."""

NAMES = tuple(ENTITIES)
"""Names of all entities, which ``detects`` in a policy may use."""
