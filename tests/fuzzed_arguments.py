"""Random argument lists, and the check of the command line's answer to each.

    python -m tests.fuzzed_arguments COUNT [SEED]

It runs COUNT lists through `cli.main` with commands that do nothing, and prints counts as JSON. It
is its own program because pytest has imported torch, and a command line must not import it.
"""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from time import perf_counter
from unittest import mock

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fasttrain.cli import main as cli
from fasttrain.cli.flags import COMMANDS, parser
from fasttrain.recipe.recipe import FIELDS

NASTY = [
    *("-1", "0", "-0", "1", "00", "+5", "1e309", "-1e309", "nan", "inf", "-inf", "1e-320", "1e5"),
    *("", " ", "\t", "-", "--", "---", "=", "--=", "\x00", "a\x00b", "a\nb", "/tmp/a\nb", "\r\n"),
    *(
        "\u0661\u0662",
        "\uff11",
        "\u00b2",
        "\u0bef",
        "1_000",
        "1_",
        "0x10",
        "0b1",
        "1.5",
        "1,5",
        "5.",
    ),
    *(str(10**30), "1" * 5000, "9" * 4301, "x" * 100_000, "-" * 1000, "--" + "x" * 1000),
    *(
        "\udc80",
        "a\udfffb",
        "\ud800",
        "\u202e",
        "\u200b",
        "\x1b[31m",
        "\x7f",
        "e\u0301",
        "\U0001f600",
    ),
    *("true", "None", "auto", "AUTO", "none", "%s", "%(default)s", "{}", "$(id)", "`id`", "; ls"),
    *(
        "../../x",
        "/dev/null",
        "/dev/stdin",
        "~",
        "a" * 300,
        "/" * 300,
        "@file",
        "@/etc/passwd",
        "-h5",
    ),
]
WORDS = [word for field in FIELDS.values() for word in field.metadata.get("choices", ())]
GOOD = [*WORDS, "1", "2", "0.5", "0.05", "16", "runs/a", "cpu", "cuda:0"]
FLAGS = sorted(
    {
        flag
        for name in COMMANDS
        for action in parser(name)._actions
        for flag in action.option_strings
    }
)

values = st.one_of(
    st.sampled_from(GOOD),
    st.sampled_from(NASTY),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(), max_size=20),  # with lone surrogates
)
flags = st.sampled_from([*FLAGS, *FLAGS, "--epoch", "--nosuch", "-x", "--LR", "--lr-"])


@st.composite
def fitting(draw: st.DrawFn) -> list[str]:
    """Draw a flag with a valid value, so that not every list is refused at once."""
    name = draw(st.sampled_from(list(FIELDS)))
    facts = FIELDS[name].metadata
    flag = "--" + name.replace("_", "-")
    if isinstance(FIELDS[name].default, bool):
        return [flag]
    if "choices" in facts:
        text = draw(st.sampled_from(facts["choices"]))
    elif "low" in facts:
        whole = isinstance(facts["low"], int)
        numbers = st.integers if whole else st.floats
        text = str(draw(numbers(facts["low"], facts["high"])))
    else:
        text = draw(st.sampled_from(["cpu", "auto", "data"]))
    return draw(st.sampled_from([[flag, text], [f"{flag}={text}"]]))


pieces = st.one_of(
    fitting(),
    st.tuples(flags, values).map(list),
    st.tuples(flags, values).map(lambda pair: [f"{pair[0]}={pair[1]}"]),
    flags.map(lambda flag: [flag]),
    values.map(lambda value: [value]),
    st.sampled_from(list(COMMANDS)).map(lambda name: [name]),
)
polite = st.lists(fitting(), max_size=4)
rude = st.lists(pieces, max_size=6)
starts = st.sampled_from([[], [], *([name] for name in COMMANDS)])
lists = st.tuples(starts, st.one_of(polite, rude)).map(
    lambda parts: [*parts[0], *(word for piece in parts[1] for word in piece)]
)


def outcome(arguments: list[str]) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of a command line whose command does nothing."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(cli, "run", return_value=0):
        try:
            code = cli.main(arguments)
        except SystemExit as stop:  # of argparse, for --help and --version
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def check(arguments: list[str]) -> tuple[int, float]:
    """Return exit status and seconds; AssertionError for a wrong answer."""
    began = perf_counter()
    code, out, err = outcome(arguments)
    took = perf_counter() - began
    assert code in (0, 2), code
    if code == 2:
        assert out == ""
        assert err.startswith("fasttrain: error: ")
        assert err.endswith("\n")
        assert err[:-1].isprintable(), "more than one line, or what a terminal would obey"
        assert len(err) < 500, "a line too long to read"
    else:
        assert err == ""
    assert took < 1, f"{took:.1f} s"
    return code, took


def run(count: int, start: int | None = None) -> dict[str, float]:
    """Check `count` lists, the same at every run or those of a seed; return the counts."""
    codes: Counter[int] = Counter()
    slowest = 0.0

    @settings(
        max_examples=count,
        derandomize=start is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(lists)
    def every(arguments: list[str]) -> None:
        nonlocal slowest
        code, took = check(arguments)
        codes[code] += 1
        slowest = max(slowest, took)

    (every if start is None else seed(start)(every))()
    heavy = [name for name in ("torch", "numpy", "rich", "matplotlib") if name in sys.modules]
    assert not heavy, f"imported: {heavy}"
    return {"lists": codes.total(), "exit 0": codes[0], "exit 2": codes[2], "slowest": slowest}


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:]))))
