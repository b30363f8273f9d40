"""Risk rules: what each default rule does, what a score is, and which files are refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.enrichers.business import DEFAULT_RULES
from enrichment.enrichers.business.risk import Condition, Op, RiskRules
from enrichment.errors import SettingsError

RULES = RiskRules.load()
# A request at which no rule has anything to find.
CALM: dict[str, Any] = {
    "business_transaction_type": "payment", "business_amount": 20.0, "user_account_age_days": 400,
    "user_subscription_tier": "premium", "user_status": "ok", "geo_country_code": "US", "geo_status": "ok",
    "geo_network_type": "public",
}  # fmt: skip
DTYPES = {"business_amount": "Float64", "user_account_age_days": "Int64"}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    """Calm rows, each with its own differences."""
    table = [CALM | row for row in rows]
    dtypes: dict[str, Any] = {name: DTYPES.get(name, "str") for name in CALM}
    return pd.DataFrame({name: pd.array([row[name] for row in table], dtype=dtypes[name]) for name in CALM})


def indicators(**differences: Any) -> tuple[str, ...]:
    """The rules that fire for one row."""
    mask = int(RULES.score(frame(differences))["fired"].iloc[0])
    return RULES.risk_of(mask).fraud_indicators or ()


def test_base_score_is_all_there_is_when_no_rule_fires() -> None:
    """A calm request has the base score, the lowest level, and no indicator."""
    scored = RULES.score(frame({}))
    assert scored.to_dict("records") == [{"business_risk_score": 0.05, "business_risk_level": "low", "fired": 0}]
    assert RULES.risk_of(0).fraud_indicators == ()


EACH_RULE = [
    ("high-amount", 0.10, {"business_amount": 1000.0}, {"business_amount": 999.99}),
    ("negative-amount", 0.15, {"business_amount": -0.01}, {"business_amount": 0.0}),
    (
        "risky-transaction-type",
        0.15,
        {"business_transaction_type": "refund"},
        {"business_transaction_type": "transfer"},
    ),
    (
        "crypto-transaction",
        0.30,
        {"business_transaction_type": "crypto-purchase"},
        {"business_transaction_type": "purchase"},
    ),
    ("new-account", 0.15, {"user_account_age_days": 29}, {"user_account_age_days": 30}),
    ("anonymous-user", 0.10, {"user_status": ""}, {"user_status": "user-lookup-timeout"}),
    ("unknown-user", 0.20, {"user_status": "user-not-found"}, {"user_status": "user-service-error"}),
    ("cross-border", 0.05, {"geo_country_code": "BR"}, {"geo_country_code": "DE"}),
    ("missing-address", 0.05, {"geo_status": ""}, {"geo_status": "geo-ip-lookup-failed"}),
    ("unknown-location", 0.10, {"geo_status": "invalid-ip"}, {"geo_status": "stale"}),
    ("private-network", 0.05, {"geo_network_type": "private"}, {"geo_network_type": "public"}),
    ("impossible-network", 0.20, {"geo_network_type": "reserved"}, {"geo_network_type": "public"}),
]
# Rules that by their nature come on top of others.
ON_TOP = [
    ("very-high-amount", 0.20, {"business_amount": 10_000.0}, {"business_amount": 9_999.99}),
    ("new-account-high-amount", 0.15, {"business_amount": 1e3, "user_account_age_days": 29}, {"business_amount": 1e3}),
    (
        "free-tier-high-amount", 0.10,
        {"business_amount": 1e3, "user_subscription_tier": "free"}, {"user_subscription_tier": "free"},
    ),
    ("high-risk-country", 0.25, {"geo_country_code": "KP"}, {"geo_country_code": "BR"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "weight", "fires", "rests"), EACH_RULE, ids=[row[0] for row in EACH_RULE])
def test_rule_fires_alone_when_only_its_condition_holds(
    name: str, weight: float, fires: dict[str, Any], rests: dict[str, Any]
) -> None:
    """Each default rule adds its own weight for its own reason, and rests on the other side of its bound."""
    assert indicators(**fires) == (name,)
    assert indicators(**rests) == ()
    assert RULES.score(frame(fires))["business_risk_score"].tolist() == [round(0.05 + weight, 2)]


@pytest.mark.parametrize(("name", "weight", "fires", "rests"), ON_TOP, ids=[row[0] for row in ON_TOP])
def test_rule_adds_to_others_when_they_fire_too(
    name: str, weight: float, fires: dict[str, Any], rests: dict[str, Any]
) -> None:
    """Aggravating rules fire with those they aggravate, each by its own weight."""
    assert name in indicators(**fires)
    assert name not in indicators(**rests)
    assert next(rule.weight for rule in RULES.rules if rule.name == name) == weight


def test_every_default_rule_is_pinned_here() -> None:
    """A rule that is added to the defaults gets a line in the tables above."""
    assert {row[0] for row in EACH_RULE + ON_TOP} == {rule.name for rule in RULES.rules}


def test_nulls_fire_nothing_by_themselves() -> None:
    """Not knowing an amount, an age or a country is no sign of fraud."""
    assert indicators(**dict.fromkeys(set(CALM) - {"geo_status", "user_status"})) == ()


def test_documented_request_scores_0_15() -> None:
    """The example of the contract: premium, 365 days, 8.8.8.8 in the United States, 1,250 US dollars."""
    scored = RULES.score(frame({"business_amount": 1250.0, "user_account_age_days": 365}))
    assert scored["business_risk_score"].tolist() == [0.15]


def rules_of(tmp_path: Path, text: str) -> RiskRules:
    """Rules from a text, with plain levels before them."""
    file = tmp_path / "rules.toml"
    file.write_text("base_score = 0.1\nlevels = {low = 0.0, medium = 0.3, high = 0.6, critical = 0.8}\n" + text)
    return RiskRules.load(file)


def rule(when: str, name: str = "r", weight: str = "0.5") -> str:
    """One rule in TOML."""
    return f'[[rules]]\nname = "{name}"\nweight = {weight}\nwhen = [{when}]\n'


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ('{column = "business_amount", op = ">", value = 5}', [False, False, True, False]),
        ('{column = "business_amount", op = ">=", value = 5}', [False, True, True, False]),
        ('{column = "business_amount", op = "<", value = 5}', [True, False, False, False]),
        ('{column = "business_amount", op = "<=", value = 5}', [True, True, False, False]),
        ('{column = "business_amount", op = "==", value = 5}', [False, True, False, False]),
        ('{column = "business_amount", op = "!=", value = 5}', [True, False, True, False]),
        ('{column = "business_amount", op = "in", value = [4, 6]}', [True, False, True, False]),
        ('{column = "business_amount", op = "not_in", value = [4, 6]}', [False, True, False, False]),
        ('{column = "business_unit", op = "==", value = "b"}', [False, True, False, False]),
        ('{column = "business_unit", op = "!=", value = "b"}', [True, False, True, False]),
        ('{column = "business_unit", op = "in", value = ["a", "c"]}', [True, False, True, False]),
        ('{column = "business_unit", op = "not_in", value = ["a", "c"]}', [False, True, False, False]),
        ('{column = "business_unit", op = "is_null"}', [False, False, False, True]),
        ('{column = "business_unit", op = "not_null"}', [True, True, True, False]),
        (
            '{column = "business_amount", op = ">", value = 4}, {column = "business_unit", op = "!=", value = "b"}',
            [False, False, True, False],
        ),
    ],
)
def test_condition_holds_as_its_operator_says(tmp_path: Path, when: str, expected: list[bool]) -> None:
    """Every operator, on numbers and text; on null only `is_null` holds; several conditions must all hold."""
    table = pd.DataFrame(
        {
            "business_amount": pd.array([4, 5, 6, None], dtype="Float64"),
            "business_unit": pd.array(["a", "b", "c", None], dtype="str"),
        }
    )
    assert rules_of(tmp_path, rule(when)).score(table)["fired"].astype(bool).tolist() == expected


PLAIN: dict[Op, Callable[[Any, Any], bool]] = {
    Op.MORE: operator.gt, Op.AT_LEAST: operator.ge, Op.LESS: operator.lt, Op.AT_MOST: operator.le,
    Op.EQUAL: operator.eq, Op.UNEQUAL: operator.ne,
    Op.IN: lambda value, listed: value in listed, Op.NOT_IN: lambda value, listed: value not in listed,
}  # fmt: skip
ORDERED, LISTS = (Op.MORE, Op.AT_LEAST, Op.LESS, Op.AT_MOST), (Op.IN, Op.NOT_IN)
TYPES = {"business_amount": pa.float64(), "user_account_age_days": pa.int64(), "business_unit": pa.string()}
NUMBERS = st.integers(-2, 2) | st.sampled_from([-0.5, 0.5, 1.5])


@given(
    column=st.sampled_from(
        [("business_amount", st.sampled_from([-0.5, 0.5, 1.0, 1.5, 2.0]), NUMBERS),
         ("user_account_age_days", st.integers(-2, 2), NUMBERS),
         ("business_unit", st.sampled_from("abc"), st.sampled_from("bcd"))]
    ),
    data=st.data(),
)  # fmt: skip
def test_condition_holds_where_python_says_so(column: tuple[str, Any, Any], data: st.DataObject) -> None:
    """Whole numbers compare with fractions, in lists, too; nothing holds for a null."""
    name, held, wanted = column
    values = data.draw(st.lists(st.none() | held, min_size=1, max_size=6))
    op = data.draw(st.sampled_from([op for op in PLAIN if name != "business_unit" or op not in ORDERED]))
    value = tuple(data.draw(st.lists(wanted, min_size=1, max_size=3))) if op in LISTS else data.draw(wanted)
    series = pd.Series(pa.array(values, TYPES[name]).to_pandas(types_mapper=pd.ArrowDtype))
    expected = [found is not None and PLAIN[op](found, value) for found in values]
    assert Condition(name, op, value).holds(series).tolist() == expected


def test_score_is_clipped_and_rounded(tmp_path: Path) -> None:
    """However much fires, a score ends at 1; and it has two digits."""
    not_null = '{column = "business_unit", op = "not_null"}'
    rules = rules_of(
        tmp_path, rule(not_null, "a", "0.333") + rule('{column = "business_unit", op = "==", value = "x"}', "b", "7")
    )
    scored = rules.score(pd.DataFrame({"business_unit": pd.array(["y", "x"], dtype="str")}))
    assert scored["business_risk_score"].tolist() == [0.43, 1.0]


@pytest.mark.parametrize(
    ("score", "level"),
    [
        (0.0, "low"),
        (0.29, "low"),
        (0.3, "medium"),
        (0.59, "medium"),
        (0.6, "high"),
        (0.8, "critical"),
        (1.0, "critical"),
    ],
)
def test_level_is_the_highest_that_the_score_reaches(score: float, level: str) -> None:
    """A level begins at its bound."""
    assert RULES.levels.of(score) == level


@given(mask=st.integers(0, 2 ** len(RULES.rules) - 1), bit=st.integers(0, len(RULES.rules) - 1))
def test_score_stays_in_bounds_and_never_falls_when_a_rule_fires_too(mask: int, bit: int) -> None:
    """For any set of fired rules."""
    less, more = RULES.risk_of(mask & ~(1 << bit)), RULES.risk_of(mask | 1 << bit)
    assert less.risk_score is not None
    assert more.risk_score is not None
    assert 0 <= less.risk_score <= more.risk_score <= 1
    assert less.risk_score == round(less.risk_score, 2)


def test_rows_keep_their_index_when_scored() -> None:
    """Scores belong to the rows that they were made from."""
    table = frame({}, {"business_amount": 5000.0}).set_index(pd.Index([7, 3]))
    assert RULES.score(table)["business_risk_score"].to_dict() == {7: 0.05, 3: 0.15}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rule('{column = "busines_amount", op = ">", value = 1}'), "rule 'r': column: 'busines_amount' is none of"),
        (rule('{column = "business_amount", op = "~", value = 1}'), "rule 'r': Invalid enum value '~'.*op"),
        (rule('{column = "business_amount", op = ">"}'), "rule 'r': value: business_amount takes numbers"),
        (rule('{column = "business_amount", op = ">", value = "1"}'), "rule 'r': value: business_amount takes numbers"),
        (rule('{column = "business_amount", op = ">", value = [1]}'), "rule 'r': value: > takes a single value"),
        (rule('{column = "business_unit", op = ">", value = "a"}'), "rule 'r': op: > needs a column of numbers"),
        (rule('{column = "business_unit", op = "in", value = "a"}'), "rule 'r': value: in takes a list"),
        (rule('{column = "business_unit", op = "==", value = 1}'), "rule 'r': value: business_unit takes text"),
        (rule('{column = "business_unit", op = "is_null", value = 1}'), "rule 'r': value: is_null takes none"),
        (rule('{column = "business_unit", op = "==", vale = "a"}'), "rule 'r': .*unknown field `vale`"),
        (rule("", "r"), "rule 'r': when: needs at least one condition"),
        (rule('{column = "business_unit", op = "not_null"}', "r", "-1"), "rule 'r': weight: must be 0 or more"),
        (rule('{column = "business_unit", op = "not_null"}', "r", "nan"), "rule 'r': weight: must be 0 or more"),
        (rule('{column = "business_unit", op = "not_null"}', "r", '"much"'), r"rule 'r': Expected `float`.*\$\.weight"),
        (rule('{column = "business_unit", op = "not_null"}') * 2, "rule 'r': name: is used twice"),
        ("[[rules]]\nweight = 1.0\nwhen = []", "rule 'number 1': .*`name`"),
        ("rules = 3", "rules: Expected `array`"),
        ("rule = []", "unknown key 'rule'"),
        ("rules = [", "Invalid|Unclosed|Unexpected"),
    ],
)
def test_file_is_refused_when_it_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    """A mistake is found when the file is loaded, and the error names file, rule and key."""
    with pytest.raises(SettingsError, match=rf"BUSINESS_RISK_RULES_PATH=.*rules\.toml.*({message})"):
        rules_of(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base_score = 0.05", "base_score = 1.5", "base_score: must be from 0 to 1"),
        ("base_score = 0.05", "", "base_score: Expected `float`, got `null`"),
        ("medium = 0.3", "medium = 0.7", "levels: must rise"),
        ("critical = 0.8", "", "levels: .*`critical`"),
    ],
)
def test_defaults_are_refused_when_changed_wrongly(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The same for what stands before the rules."""
    file = tmp_path / "rules.toml"
    file.write_text(DEFAULT_RULES.read_text().replace(old, new))
    with pytest.raises(SettingsError, match=message):
        RiskRules.load(file)


def test_too_many_rules_are_refused(tmp_path: Path) -> None:
    """A mask has room for 60."""
    many = "".join(rule('{column = "business_unit", op = "not_null"}', f"r{n}") for n in range(61))
    with pytest.raises(SettingsError, match="rules: 61 of them, at most 60"):
        rules_of(tmp_path, many)


def test_sixty_rules_all_count(tmp_path: Path) -> None:
    """The last bit of the mask is as good as the first."""
    rules = rules_of(
        tmp_path, "".join(rule('{column = "business_unit", op = "not_null"}', f"r{n}", "0.01") for n in range(60))
    )
    scored = rules.score(pd.DataFrame({"business_unit": pd.array(["a"], dtype="str")}))
    assert scored["business_risk_score"].tolist() == [0.7]
    assert len(rules.risk_of(int(scored["fired"].iloc[0])).fraud_indicators or ()) == 60


def test_missing_file_names_the_variable(tmp_path: Path) -> None:
    """A path that leads nowhere is a wrong setting."""
    with pytest.raises(SettingsError, match=r"BUSINESS_RISK_RULES_PATH=.*nowhere\.toml"):
        RiskRules.load(tmp_path / "nowhere.toml")
