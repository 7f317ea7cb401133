"""Mistakes that a summary may hold: like the rules of `test_pipeline_refusals`, put before the shipped second stage."""

_BEFORE = "    - entity: terminal\n"
_AT = "features.stages.0.summaries.0"


def _with(fields: str = "{name: n, aggregate: count}", window: str = "type: tumbling, size: 1h", more: str = "") -> str:
    """The second stage behind a summary `hourly` of these parts."""
    return (
        "      summaries:\n"
        "        - name: hourly\n"
        f"          window: {{{window}}}\n"
        f"          fields: [{fields}]\n"
        f"{''.join(f'          {line}{chr(10)}' for line in more.splitlines())}{_BEFORE}"
    )


def _of_field(name: str, what: str, where: str, said: str) -> tuple[str, str, str, str]:
    return (_BEFORE, _with(f"{{name: {name}, {what}}}"), f"{_AT}.fields.0{where}", said)


SUMMARY_RULES: dict[str, tuple[str, str, str, str]] = {
    "summary with too many closed sessions": (
        _BEFORE,
        _with(window="type: session, gap: 1s, within: 1h", more="on_late: correct\ncorrections_for: 1h"),
        *(f"{_AT}.corrections_for", "a key might keep 3,600 closed sessions"),
    ),
    "two summaries of a name": (
        _BEFORE,
        _with().replace(
            _BEFORE,
            "        - {name: hourly, window: {type: tumbling, size: 1h}, fields: [{name: n, aggregate: count}]}\n"
            + _BEFORE,
        ),
        "features.stages.0.summaries.1.name",
        "a second summary of 'customer'",
    ),
    "summary that corrects for no time": (_BEFORE, _with(more="on_late: correct"), _AT, "Say corrections_for"),
    "summary that drops and corrects": (
        *(_BEFORE, _with(more="corrections_for: 1d"), f"{_AT}.corrections_for"),
        "is for on_late: correct",
    ),
    "summary with two fields of a name": (
        *(_BEFORE, _with("{name: n, aggregate: count}, {name: n, aggregate: count}"), f"{_AT}.fields.1.name"),
        "has a field 'n' already",
    ),
    "summary with a hop that does not divide": (
        *(_BEFORE, _with(window="type: hopping, size: 1h, hop: 7m"), f"{_AT}.window.hop"),
        "must divide size",
    ),
    "summary with too many windows at once": (
        *(_BEFORE, _with(window="type: hopping, size: 1h, hop: 1s"), f"{_AT}.window.hop"),
        "every event would lie in 3,600 windows",
    ),
    "summary of sessions within less than a gap": (
        *(_BEFORE, _with(window="type: session, gap: 1h, within: 1m"), f"{_AT}.window.within"),
        "is shorter than gap",
    ),
    "summary of a window too long": (
        *(_BEFORE, _with(window="type: tumbling, size: 3650d", more="on_late: correct\ncorrections_for: 1d"), _AT),
        "longer than 3650d",
    ),
    "summary that counts a field": _of_field("n", "aggregate: count, field: amount", ".field", "count takes no field"),
    "summary without the field it sums": _of_field("n", "aggregate: sum", "", "needs a field: one of amount"),
    "summary of an unknown field": _of_field("n", "aggregate: sum, field: amout", ".field", "unknown field 'amout'"),
    "summary of a share of nothing": _of_field("n", "aggregate: share, field: terminal", "", "needs equals"),
    "summary of a mean that equals": _of_field(
        "n", "aggregate: mean, field: amount, equals: x", ".equals", "mean takes no equals"
    ),
    "summary with a filter that cannot be read": _of_field(
        "n", 'aggregate: count, where: "amount >"', ".where", "cannot read the filter"
    ),
    "summary with a filter over an unknown field": _of_field(
        "n", "aggregate: count, where: colour == 'red'", ".where", "unknown field 'colour'"
    ),
}
