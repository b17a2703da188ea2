"""The reason codes (docs/policies.md): a contract with every caller."""

from policies.reasons import ALL_CODES, CLASSES, WINDOW_CODES, Reason, rank
from usage.metrics import Metric
from usage.windows import Window

# As the table of the contract writes them, top to bottom; NO_POLICY with the class it has when it blocks.
TABLE = (
    ("ALLOWED", "allowed"),
    ("NO_POLICY", "forbidden"),
    ("DEGRADED_ALLOWED", "degraded"),
    ("DEGRADED_BLOCKED", "degraded"),
    ("ENVIRONMENT_FROZEN", "frozen"),
    ("FEATURE_FROZEN", "frozen"),
    ("USER_BLOCKED", "forbidden"),
    ("MODEL_NOT_ALLOWED", "forbidden"),
    ("MODEL_DENIED", "forbidden"),
    ("PRICE_UNKNOWN", "forbidden"),
    ("REQUEST_TOKENS_EXCEEDED", "too_large"),
    ("REQUEST_COST_EXCEEDED", "too_large"),
    ("CONCURRENCY_LIMIT_EXCEEDED", "transient"),
)
WINDOW_WORDS = ("MINUTE", "HOURLY", "DAILY", "WEEKLY", "MONTHLY", "TOTAL")
METRIC_WORDS = ("REQUEST_LIMIT", "TOKEN_LIMIT", "BUDGET")


def test_the_reasons_their_classes_and_their_order_are_those_of_the_contract() -> None:
    assert tuple((reason.value, CLASSES[reason].value) for reason in sorted(Reason, key=rank)) == TABLE


def test_the_codes_of_window_limits_are_those_of_the_contract() -> None:
    wanted = {f"{window}_{metric}_EXCEEDED" for window in WINDOW_WORDS for metric in METRIC_WORDS}

    assert set(WINDOW_CODES.values()) == wanted
    assert set(WINDOW_CODES) == {
        (window, metric) for window in Window for metric in Metric if metric is not Metric.CONCURRENCY
    }
    assert WINDOW_CODES[Window.HOUR, Metric.OUTPUT_TOKENS] == "HOURLY_TOKEN_LIMIT_EXCEEDED"
    assert WINDOW_CODES[Window.MONTH, Metric.COST_USD] == "MONTHLY_BUDGET_EXCEEDED"


def test_no_code_is_listed_twice_and_each_fits_its_column() -> None:
    assert len(set(ALL_CODES)) == len(ALL_CODES) == len(TABLE) + len(WINDOW_WORDS) * len(METRIC_WORDS)
    assert max(map(len, ALL_CODES)) <= 40
